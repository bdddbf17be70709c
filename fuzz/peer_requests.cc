// What two pinned peers ask of a node, one request after the other, as node/peer_service.cc hands it on.
#include <spdlog/details/null_mutex.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

#include "base/log_format.h"
#include "engine/bundle_demands.h"
#include "engine/podman_demands.h"
#include "fuzz/demands.h"
#include "fuzz/fake_node.h"
#include "fuzz/input.h"
#include "fuzz/target.h"
#include "migrate/convert.h"
#include "migrate/survey.h"
#include "network/tunnel_key.h"
#include "node/said_names.h"
#include "wire/message.h"

namespace transship::fuzz {
namespace {

constexpr int64_t kNow = 1'700'000'000'000;

// The daemon's log: one line each, and nothing in it that drives a terminal.
class CheckedLog final : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
 public:
  CheckedLog() { set_formatter(log_formatter()); }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    std::string_view text(line.data(), line.size());
    TS_CHECK(text.ends_with('\n'));
    text.remove_suffix(1);
    for (char c : text) TS_CHECK(!is_control(c), "in the log: {}", text);
  }
  void flush_() override {}
};

void check_the_log() {
  static const bool done = [] {
    auto logger = std::make_shared<spdlog::logger>("fuzz", std::make_shared<CheckedLog>());
    logger->set_level(spdlog::level::debug);
    spdlog::set_default_logger(std::move(logger));
    return true;
  }();
  (void)done;
}

// The node's own key is another one each time: in an input it is that of "aws".
void put_own_key(FakeNode& node, peer::Request& request) {
  auto put = [&](std::string* text) {
    if (*text == FakeNode::key("aws")) *text = node.own();
  };
  if (request.has_placed()) put(request.mutable_placed()->mutable_next());
  if (request.has_expose()) put(request.mutable_expose()->mutable_entry());
  if (request.has_entry()) put(request.mutable_entry()->mutable_next());
  if (request.has_handover()) put(request.mutable_handover()->mutable_next());
  auto* container = request.has_judge()     ? request.mutable_judge()->mutable_container()
                    : request.has_reserve() ? request.mutable_reserve()->mutable_container()
                                            : nullptr;
  if (container == nullptr) return;
  put(container->mutable_home());
  for (auto& port : *container->mutable_exposed()) put(port.mutable_entry());
}

class Node {
 public:
  void ask(const std::string& peer, const peer::Request& request) {
    switch (request.kind_case()) {
      case peer::Request::kPlaced: return outcome(node.cutover.told(peer, request.placed()));
      case peer::Request::kExpose: return outcome(node.exposer.asked(peer, request.expose()));
      case peer::Request::kEntry:
        outcome(node.exposer.told(peer, request.entry()));
        (void)node.exposer.state_for(peer, request.entry());
        return;
      case peer::Request::kMoving: return outcome(node.exposer.told_moving(peer, request.moving()));
      case peer::Request::kPause: return outcome(node.exposer.told_pause(peer, request.pause()));
      case peer::Request::kHandover: return outcome(node.handover.asked(peer, request.handover()));
      case peer::Request::kNames: return names(peer, request.names());
      case peer::Request::kTunnel: return tunnel(request.tunnel().end());
      case peer::Request::kJudge: return container(peer, request.judge().container(), nullptr);
      case peer::Request::kReserve: return container(peer, request.reserve().container(), &request.reserve());
      default: return;
    }
  }
  FakeNode node;

 private:
  // What the peer gets to read of an error.
  template <class T>
  static void outcome(const Result<T>& result) {
    if (result) return;
    TS_CHECK(result.error().code() != Errc::kInternal, "{}", result.error().message());
    peer::Failure failure;
    TS_CHECK(failure.ParseFromString(wire::to_failure(result.error()).SerializeAsString()));
  }

  void names(const std::string& peer, const peer::NamesRequest& request) {
    std::vector<names::NamedContainer> believed;
    for (const auto& said : request.names()) {
      auto c = node::from_proto(said, FakeNode::key(peer));
      if (c && names::complaint(*c).empty()) believed.push_back(std::move(*c));
    }
    directory.put(peer, believed, kNow);
    auto hosts = names::hosts_text(directory.rows(), "transship");
    for (char c : hosts) TS_CHECK(c == '\n' || (is_ascii(c) && !is_control(c)), "for the DNS server: {}", hosts);
    names::Directory again("aws");
    TS_CHECK(again.load_json(directory.to_json(), kNow));
    for (const auto& c : directory.of(peer)) {
      peer::NamedContainer out;
      node::to_proto(c, out);
      TS_CHECK(node::from_proto(out, "").has_value());
    }
  }

  static void tunnel(const peer::TunnelEnd& end) {
    auto key = network::TunnelPublicKey::from_bytes(end.public_key());
    if (!key) return;
    auto again = network::TunnelPublicKey::parse(key->text());
    TS_CHECK(again && again->bytes() == end.public_key());
  }

  void container(const std::string& peer, const peer::ContainerFacts& said, const peer::ReserveRequest* reserve) {
    auto wanted = migrate::from_facts(said);
    if (!wanted) return outcome(wanted);
    auto facts = migrate::cutover_facts(*wanted);
    facts.source = peer;
    facts.destination = "aws";
    facts.home = said.home();
    facts.home_id = said.home_id();
    outcome(node.cutover.judge_arrival(facts));
    (void)migrate::container_side(*wanted);
    (void)node.handover.objections({said.exposed().begin(), said.exposed().end()});
    (void)migrate::to_facts(*wanted);
    if (auto spec = engine::read_spec(wanted->spec))
      check_demands(engine::podman_demands(*wanted, *spec, {}), wanted->engine);
    if (auto bundle = engine::read_bundle_spec(wanted->spec))
      check_demands(engine::bundle_demands(*bundle, {}, [](const std::string&) { return false; }), wanted->engine);
    if (reserve == nullptr) return;
    plan::Reservation r;
    r.move_id = reserve->move_id();
    r.name = wanted->name;
    r.amounts = {reserve->memory_bytes(), reserve->images_bytes(), reserve->storage_bytes()};
    for (const auto& p : wanted->host_ports) r.ports.push_back({p.host_ip, p.host_port, p.protocol});
    constexpr uint64_t kFree = 4ULL << 30;
    (void)node.services.reservations.reserve(std::move(r), {kFree, kFree, kFree});
    auto taken = node.services.reservations.totals();
    TS_CHECK(taken.memory_bytes <= kFree && taken.images_bytes <= kFree && taken.storage_bytes <= kFree);
  }

  names::Directory directory{"aws"};
};

void run(std::string_view bytes) {
  check_the_log();
  Input in(bytes);
  Node node;
  for (int requests = 0; !in.empty() && requests < 32; ++requests) {
    std::string peer = in.flag() ? "openstack" : "azure";
    auto piece = in.piece();
    peer::Request request;
    if (!request.ParseFromArray(piece.data(), static_cast<int>(piece.size()))) continue;
    put_own_key(node.node, request);
    node.ask(peer, request);
  }
  (void)node.node.placements.apply(true);
  (void)node.node.exposer.all();
}

// ---- seeds

peer::ContainerFacts redis() {
  peer::ContainerFacts facts;
  facts.set_engine("podman");
  facts.set_id("3f2a");
  facts.set_name("redis");
  facts.set_home(FakeNode::key("aws"));
  facts.set_home_id("3f2a");
  facts.set_new_address(true);
  auto& address = *facts.add_addresses();
  address.set_network("podman");
  address.set_ip("10.88.0.3");
  address.set_prefix(16);
  auto& port = *facts.add_host_ports();
  port.set_host_ip("192.0.2.1");
  port.set_host_port(16379);
  port.set_container_port(6379);
  port.set_protocol("tcp");
  auto& exposed = *facts.add_exposed();
  exposed.set_entry(FakeNode::key("openstack"));
  exposed.set_protocol("http");
  exposed.set_port(80);
  exposed.set_container_port(8080);
  exposed.set_health("/health?x=1");
  facts.set_engine_spec(R"({"format":1,"create":{"name":"redis"},"bundle":"/b","config":{"root":{}},"files":[]})");
  return facts;
}

class Script {
 public:
  peer::Request& by(const char* peer) {
    flush();
    peer_ = peer;
    return request_.emplace();
  }
  std::string bytes() {
    flush();
    return out_.bytes();
  }

 private:
  void flush() {
    if (request_) out_.byte(peer_ == "openstack" ? 1 : 0).piece(request_->SerializeAsString());
    request_.reset();
  }
  std::string peer_;
  std::optional<peer::Request> request_;
  Output out_;
};

void entry(peer::EntryRequest& request, const char* protocol, uint32_t port) {
  request.set_protocol(protocol);
  request.set_port(port);
  request.set_name("web");
  request.add_addresses("10.88.0.9/16");
  request.add_addresses("fd88::9");
  request.set_container_port(8080);
}

std::string exposing() {
  Script s;
  auto& expose = *s.by("azure").mutable_expose();
  expose.set_home_id("3f2a");
  expose.set_container_port(6379);
  expose.set_protocol("tcp");
  expose.set_entry(FakeNode::key("aws"));
  expose.set_port(16379);
  entry(*s.by("azure").mutable_entry(), "tcp", 8080);
  s.by("azure").mutable_entry()->set_next(FakeNode::key("openstack"));
  entry(*s.by("azure").mutable_entry(), "http", 80);
  auto& removed = *s.by("azure").mutable_entry();
  entry(removed, "tcp", 8080);
  removed.set_remove(true);
  auto& end = *s.by("openstack").mutable_expose();
  end.set_protocol("tcp");
  end.set_entry(FakeNode::key("openstack"));
  end.set_port(7379);
  end.set_remove(true);
  return s.bytes();
}

std::string handing_over() {
  Script s;
  auto& offer = *s.by("azure").mutable_handover();
  offer.set_home_id("3f2a");
  offer.set_offer(true);
  offer.set_next(FakeNode::key("openstack"));
  auto& given = *s.by("azure").mutable_placed();
  given.set_home_id("3f2a");
  given.set_next(FakeNode::key("openstack"));
  s.by("openstack").mutable_placed()->set_home_id("3f2a");
  s.by("azure").mutable_moving()->set_home_id("3f2a");
  s.by("openstack").mutable_moving()->set_home_id("3f2a");
  auto& pause = *s.by("azure").mutable_pause();
  pause.set_name("web");
  pause.set_paused(true);
  auto& gone = *s.by("openstack").mutable_placed();
  gone.set_home_id("3f2a");
  gone.set_gone(true);
  return s.bytes();
}

std::string naming() {
  Script s;
  for (const char* peer : {"azure", "openstack"}) {
    auto& names = *s.by(peer).mutable_names();
    for (const char* text : {"Redis_1", "web.x"}) {
      auto& name = *names.add_names();
      name.set_name(text);
      name.add_addresses("10.88.0.7");
      name.add_addresses("fd88::7");
      name.set_home_id("77");
      name.set_since_unix_ms(kNow - 5);
      name.set_leaving(peer == std::string("azure"));
      name.set_before_home("x");
      name.set_before_id("y");
    }
  }
  s.by("azure").mutable_tunnel()->mutable_end()->set_public_key("01234567890123456789012345678901");
  return s.bytes();
}

std::string moving_in(bool reserve) {
  Script s;
  if (reserve) {
    auto& r = *s.by("azure").mutable_reserve();
    *r.mutable_container() = redis();
    r.set_move_id("a1b2");
    r.set_memory_bytes(1 << 20);
    r.set_images_bytes(1 << 20);
  } else {
    *s.by("azure").mutable_judge()->mutable_container() = redis();
  }
  return s.bytes();
}

// Text that is not to reach the log as it is.
std::string shouting() {
  Script s;
  for (const char* peer : {"azure", "openstack"}) {
    s.by(peer).mutable_moving()->set_home_id("a\nb\x1b[2J");
    s.by(peer).mutable_placed()->set_home_id("a\nb\x1b[2J");
    s.by(peer).mutable_handover()->set_home_id("a\r\x7f");
  }
  return s.bytes();
}

std::vector<std::string> seeds() {
  return {exposing(), handing_over(), naming(), moving_in(false), moving_in(true), shouting()};
}

const Registration kRegistration({"peer_requests", run, seeds});

}  // namespace
}  // namespace transship::fuzz
