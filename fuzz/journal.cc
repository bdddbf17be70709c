// What a daemon reads back that an earlier one has written: resume files, what the store has, names of containers.
#include <filesystem>

#include "fuzz/box.h"
#include "fuzz/input.h"
#include "fuzz/target.h"
#include "migrate/convert.h"
#include "migrate/exposures.h"
#include "migrate/placements.h"
#include "migrate/resume_file.h"
#include "names/directory.h"
#include "proto/local.pb.h"
#include "sys/file.h"

namespace transship::fuzz {
namespace {

using namespace migrate;

constexpr int64_t kNow = 1'700'000'000'000;

Box& box() {
  static Box one;
  return one;
}

void put(const char* name, std::string_view bytes) {
  auto fd = open_file(box().inside() + "/" + name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  TS_CHECK(fd && write_all(fd->get(), bytes));
}

void resume(std::string_view bytes) {
  put("resume", bytes);
  auto file = read_resume_file(box().inside());
  if (file && file->has_arriving()) (void)from_facts(file->arriving().container());
  if (file && file->has_leaving()) {
    auto container = from_facts(file->leaving().network());
    if (container) (void)cutover_facts(*container);
  }
}

void expected(std::string_view bytes) {
  put("expected-pages", bytes);
  auto pages = read_expected_pages(box().inside());
  if (!pages) return;
  for (const auto& [space, ranges] : *pages) {
    uint64_t end = 0;
    for (const auto& range : ranges) {
      TS_CHECK(range.address >= end && range.pages > 0);
      TS_CHECK(range.end() > range.address, "{:#x} and {} pages", range.address, range.pages);
      end = range.end();
    }
  }
  TS_CHECK(write_expected_pages(box().inside(), *pages));
  auto again = read_expected_pages(box().inside());
  TS_CHECK(again && *again == *pages);
}

void stored(std::string_view bytes) {
  Input in(bytes);
  auto key = in.text(), facts = std::string(in.rest());
  if (auto c = parse_placed(key, facts); c) {
    auto again = parse_placed(key, to_text(*c));
    TS_CHECK(again && *again == *c);
  }
  if (auto e = parse_exposure(key, facts); e) {
    auto again = parse_exposure(key, to_text(*e));
    TS_CHECK(again && *again == *e);
  }
}

void names_file(std::string_view bytes) {
  names::Directory directory("aws");
  if (!directory.load_json(std::string(bytes), kNow)) return;
  auto rows = directory.rows();
  auto hosts = names::hosts_text(rows, "transship");
  for (char c : hosts) TS_CHECK(c == '\n' || (is_ascii(c) && !is_control(c)), "for the DNS server: {}", hosts);
  names::Directory second("aws");
  TS_CHECK(second.load_json(directory.to_json(), kNow));
  TS_CHECK(second.to_json() == directory.to_json());
}

void events(std::string_view bytes) {
  local::MoveEvent event;
  (void)event.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
  local::Summary summary;
  (void)summary.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
}

void run(std::string_view bytes) {
  Input in(bytes);
  switch (in.byte() % 5) {
    case 0: resume(in.rest()); break;
    case 1: expected(in.rest()); break;
    case 2: stored(in.rest()); break;
    case 3: names_file(in.rest()); break;
    default: events(in.rest());
  }
  box().clear();
}

peer::ContainerFacts redis() {
  peer::ContainerFacts facts;
  facts.set_engine("podman");
  facts.set_id("3f2a9c1d8e7b");
  facts.set_name("redis");
  auto& address = *facts.add_addresses();
  address.set_ip("10.88.0.3");
  address.set_prefix(16);
  auto& port = *facts.add_host_ports();
  port.set_host_port(16379);
  port.set_container_port(6379);
  port.set_protocol("tcp");
  return facts;
}

std::string resume_seed(bool arriving) {
  journal::ResumeFile file;
  if (arriving) {
    *file.mutable_arriving()->mutable_container() = redis();
    file.mutable_arriving()->mutable_staged()->set_id("3f2a");
    file.mutable_arriving()->set_live_memory(true);
  } else {
    *file.mutable_leaving()->mutable_network() = redis();
    file.mutable_leaving()->set_pid(77);
    file.mutable_leaving()->add_new_addresses("10.88.0.9");
  }
  return file.SerializeAsString();
}

std::string expected_seed() {
  journal::ExpectedPages pages;
  auto& space = *pages.add_spaces();
  space.set_id(1);
  for (uint64_t n : {16U, 3U, 1U, 1U}) space.add_gaps_and_lengths(n);
  return pages.SerializeAsString();
}

std::string names_seed() {
  names::Directory directory("aws");
  names::NamedContainer c{
      .name = "redis_1", .home = "SHA256:a", .home_id = "3f2a", .before_home = "b", .before_id = "c"};
  c.addresses = {*network::IpAddress::parse("10.88.0.3"), *network::IpAddress::parse("fd88::3")};
  directory.put("aws", {c}, kNow);
  c.leaving = true;
  directory.put("azure", {c}, kNow);
  return directory.to_json();
}

std::vector<std::string> seeds() {
  PlacedContainer placed{.role = PlacedRole::kAway,
                         .home = "SHA256:a",
                         .home_id = "3f2a",
                         .name = "redis",
                         .addresses = {*network::IpAddress::parse("10.88.0.3")},
                         .bridge = "podman0",
                         .peer = "azure",
                         .ports = {{.host_port = 16379, .container_port = 6379}}};
  Exposure exposure{.entry = "SHA256:b",
                    .home = "SHA256:a",
                    .protocol = "http",
                    .port = 80,
                    .name = "web",
                    .addresses = {{*network::IpAddress::parse("10.88.0.3"), 16}},
                    .container_port = 8080,
                    .health = "/health"};
  local::MoveEvent event;
  event.set_move_id("a1b2");
  event.mutable_progress()->set_bytes_done(1);
  auto one = [](uint8_t kind) { return Output().byte(kind); };
  return {one(0).raw(resume_seed(true)).bytes(),
          one(0).raw(resume_seed(false)).bytes(),
          one(1).raw(expected_seed()).bytes(),
          one(2).piece(placed.key()).raw(to_text(placed)).bytes(),
          one(2).piece(exposure.key()).raw(to_text(exposure)).bytes(),
          one(3).raw(names_seed()).bytes(),
          one(4).raw(event.SerializeAsString()).bytes()};
}

const Registration kRegistration({"journal", run, seeds});

}  // namespace
}  // namespace transship::fuzz
