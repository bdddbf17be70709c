#include "migrate/planner.h"

#include <sys/stat.h>

#include <filesystem>
#include <map>

#include "base/text.h"
#include "base/thread.h"
#include "base/wall_clock.h"
#include "migrate/arrival_policy.h"
#include "migrate/convert.h"
#include "migrate/cpu_features.h"
#include "migrate/entry_handover.h"
#include "migrate/exposures.h"
#include "migrate/volume_copies.h"
#include "sys/file.h"

namespace transship::migrate {
namespace {

// About 17 ms at 1 Gbit/s: enough to get past slow start in a data centre, little enough to do for every plan.
constexpr uint64_t kProbeBytes = 8U << 20;
constexpr unsigned kPings = 5;

Result<> measure_link(wire::Session& session, plan::Link& link, const Cancel& cancel) {
  auto deadline = Deadline::in(milliseconds(20'000));
  TS_TRY_ASSIGN(auto rtt, session.round_trip(kPings, deadline, cancel));
  link.rtt_ms = static_cast<double>(rtt.count()) / 1000;
  TS_TRY_ASSIGN(link.bits_per_second, session.measure_bandwidth(kProbeBytes, deadline, cancel));
  link.protocol_version = session.versions().protocol;
  TS_TRY_ASSIGN(link.clock_offset_ms, clock_offset(session, cancel));
  return {};
}

Result<peer::JudgeReply> ask(const Services& services, wire::Session& session, const Planned& planned,
                             const Cancel& cancel) {
  const Survey& survey = planned.survey;
  peer::Request request;
  auto& judge = *request.mutable_judge();
  *judge.mutable_container() = to_facts(survey.container);
  auto facts = cutover_facts(survey.container);
  services.cutover->identify(facts);
  judge.mutable_container()->set_home(facts.home);
  judge.mutable_container()->set_home_id(facts.home_id);
  for (const auto& port : planned.exposed) *judge.mutable_container()->add_exposed() = port;
  judge.mutable_container()->set_memory_bytes(survey.tasks.memory_bytes);
  judge.mutable_container()->set_rootfs_bytes(planned.rootfs.bytes);
  // Without it the plan says "not compared"; that is not a reason to fail.
  if (auto info = cpuinfo_image(services.settings); info) judge.set_criu_cpuinfo(*info);
  TS_TRY_ASSIGN(peer::Reply reply, session.call(request, Deadline::in(milliseconds(30'000)), cancel));
  return reply.judge();
}

void take_rows(const peer::JudgeReply& judged, plan::PlanInput& input) {
  for (const auto& row : judged.rows())
    input.destination_rows.push_back(
        {row.check(), static_cast<plan::Verdict>(std::clamp<int>(row.verdict(), 1, 3)), row.found(), row.remedy()});
  input.image_present = judged.image_present();
}

// Of the others only what changed is sent, and how much that is nobody knows before.
void count_volumes(const Survey& survey, const peer::JudgeReply& judged, plan::PlanInput& input) {
  int number = 0;
  for (const auto& m : survey.container.mounts) {
    if (!engine::is_volume(m)) continue;
    int i = number++;
    if (i < judged.volume_generations_size() && !m.copy_generation.empty() &&
        judged.volume_generations(i) == m.copy_generation)
      continue;
    input.volume_bytes += m.bytes;
    input.volume_files += m.files;
  }
}

Result<> find_entries(const Services& services, Planned& planned, plan::PlanInput& input) {
  input.new_address = true;
  input.abilities.skip_in_flight = true;
  if (services.entries == nullptr) return {};
  auto facts = cutover_facts(planned.survey.container);
  services.cutover->identify(facts);
  if (facts.home.empty()) facts.home = services.identity.fingerprint().text();
  TS_TRY_ASSIGN(planned.exposed, services.entries->ports_of(facts));
  for (const auto& port : planned.exposed) input.entries.push_back(services.entries->text_of(port));
  return {};
}

}  // namespace

Result<double> clock_offset(wire::Session& session, const Cancel& cancel) {
  peer::Request request;
  request.mutable_ping();
  auto before = unix_ms_now();
  TS_TRY_ASSIGN(peer::Reply reply, session.call(request, Deadline::in(milliseconds(10'000)), cancel));
  auto middle = static_cast<double>(before + unix_ms_now()) / 2;
  return static_cast<double>(reply.ping().clock_unix_ms()) - middle;
}

Result<Planned> make_plan(const Services& services, const std::string& container, const std::string& peer,
                          wire::Session* session, const std::string& link_error, const PlanWishes& wishes,
                          const Cancel& cancel) {
  Planned planned;
  plan::PlanInput input;
  // Beside what is asked on this host.
  Result<> measured;
  Thread measure("measure-link", [&] {
    if (session != nullptr) measured = measure_link(*session, input.link, cancel);
  });
  TS_TRY_ASSIGN(planned.survey, survey(services, container));
  planned.survey.container.new_address = wishes.new_address;
  TS_TRY_ASSIGN(planned.rootfs, travelling_size(planned.survey.container, cancel));
  TS_TRY(measure_volumes(planned.survey, cancel));
  TS_TRY(find_sharers(services, planned.survey.container, planned.survey.pids));
  VolumeCopies(*services.store, copies_directory(services.settings)).offer(planned.survey.container);
  measure.join();
  input.peer = peer;
  input.container = container_side(planned.survey.container);
  input.tasks = planned.survey.tasks;
  input.abilities = abilities();
  input.abilities.published_ports_follow = services.cutover->name() == "tunnel";
  if (wishes.new_address) TS_TRY(find_entries(services, planned, input));
  input.rootfs_bytes = planned.rootfs.bytes;
  input.rootfs_files = planned.rootfs.files;
  planned.max_bits_per_second =
      wishes.max_bits_per_second != 0 ? wishes.max_bits_per_second : services.settings.max_bits_per_second;
  input.max_bits_per_second = planned.max_bits_per_second;
  if (services.settings.memory_method.method != criu::MemoryMethod::kFull) input.memory_mode = wishes.mode;
  // Beside what the destination is asked for.
  Result<NodeFacts> own = NodeFacts{};
  Thread facts("plan-facts", [&] { own = services.node_facts(); });
  input.link.error = link_error;
  if (session != nullptr) {
    TS_TRY_CTX(std::move(measured), fmt::format("measure the link to {}", peer));
    TS_TRY_ASSIGN(planned.judged, ask(services, *session, planned, cancel));
    input.destination = from_proto(planned.judged.node());
    take_rows(planned.judged, input);
    count_volumes(planned.survey, planned.judged, input);
    input.destination_judged = true;
  }
  facts.join();
  TS_TRY_ASSIGN(input.source, std::move(own));
  planned.arbiter = input.source.arbiter;
  planned.rtt_ms = input.link.rtt_ms;
  planned.bits_per_second = input.link.bits_per_second;
  planned.result = plan::make_plan(input);
  return planned;
}

namespace {

// Ports of this node that the container publishes, and that lead to others.
std::vector<Exposure> exposed_in_the_way(const Services& services, const engine::Container& wanted) {
  std::vector<Exposure> all;
  auto stored = services.store->exposed();
  if (!stored) return all;
  for (const auto& one : *stored) {
    auto e = parse_exposure(one.key, one.facts);
    if (!e || e->entry != services.identity.fingerprint().text()) continue;
    bool publishes = std::ranges::any_of(
        wanted.host_ports, [&](const auto& p) { return p.host_port == e->port && p.protocol == e->transport(); });
    bool said = std::ranges::any_of(all, [&](const auto& o) { return o.port == e->port && o.protocol == e->protocol; });
    if (publishes && !said) all.push_back(std::move(*e));
  }
  return all;
}

// Each on the disk on which it would be; those of the engine with its containers.
std::vector<engine::Conflict> volume_conflicts(const Services& services, const engine::Container& wanted) {
  struct Disk {
    uint64_t wanted = 0;
    uint64_t free = 0;
    std::string path;
  };
  std::map<dev_t, Disk> disks;
  for (const auto& m : wanted.mounts) {
    if (!engine::is_volume(m)) continue;
    std::filesystem::path path = m.type == "bind" ? m.source : services.settings.storage_path;
    struct stat st = {};
    while (::stat(path.c_str(), &st) != 0 && path.has_relative_path()) path = path.parent_path();
    auto space = sys::space_of(path);
    if (!space) continue;
    auto& disk = disks[st.st_dev];
    disk.wanted += m.bytes;
    disk.free = space->free_bytes;
    disk.path = path;
  }
  std::vector<engine::Conflict> rows;
  for (const auto& [device, disk] : disks)
    if (disk.wanted > disk.free)
      rows.push_back({"volumes",
                      fmt::format("volumes of {} do not fit: {} are free at {}", format_bytes(disk.wanted),
                                  format_bytes(disk.free), disk.path),
                      "free space there"});
  return rows;
}

Result<> judge_policy(const Services& services, const std::string& source, engine::Engine& engine,
                      const engine::Container& wanted, peer::JudgeReply& reply) {
  TS_TRY_ASSIGN(auto objections, policy_objections(services, source, engine, wanted));
  auto* row = reply.add_rows();
  row->set_check("policy");
  row->set_verdict(objections.empty() ? peer::VERDICT_OK : peer::VERDICT_BLOCK);
  row->set_found(objections.empty()
                     ? fmt::format("{} allows all that it needs", services.settings.node)
                     : fmt::format("{} refuses: {}", services.settings.node, plan::objections_text(objections)));
  if (!objections.empty())
    row->set_remedy(plan::objections_remedy(objections, services.policy.file(), services.settings.node));
  return {};
}

Result<> judge_container(const Services& services, const std::string& source, const peer::JudgeRequest& request,
                         engine::Container& wanted, peer::JudgeReply& reply) {
  auto add = [&](const std::string& check, peer::Verdict verdict, const std::string& found, const std::string& remedy) {
    auto* row = reply.add_rows();
    row->set_check(check);
    row->set_verdict(verdict);
    row->set_found(found);
    row->set_remedy(remedy);
  };
  auto engine = services.engine(wanted.engine);
  if (!engine) {
    add("engine", peer::VERDICT_BLOCK, engine.error().message(), fmt::format("install {} there", wanted.engine));
    return {};
  }
  TS_TRY_ASSIGN(Cancel never, Cancel::create());
  TS_TRY_ASSIGN(auto changed, VolumeCopies(*services.store, copies_directory(services.settings)).find(wanted, never));
  TS_TRY(judge_policy(services, source, **engine, wanted, reply));
  TS_TRY_ASSIGN(auto conflicts, (*engine)->conflicts(wanted));
  for (auto& c : changed) conflicts.push_back(std::move(c));
  for (auto& c : volume_conflicts(services, wanted)) conflicts.push_back(std::move(c));
  for (const auto& c : conflicts) add(c.check, peer::VERDICT_BLOCK, c.found, c.remedy);
  for (const auto& m : wanted.mounts) {
    if (!engine::is_volume(m)) continue;
    bool same = m.copy_here == engine::CopyHere::kSame;
    reply.add_volume_generations(same ? m.copy_generation : "");
    if (same)
      add("volumes", peer::VERDICT_OK,
          fmt::format("what is on {} was here before: only what changed since is sent", m.destination), "");
    if (m.copy_here == engine::CopyHere::kStale)
      add("volumes", peer::VERDICT_OK,
          fmt::format("of what is on {} there is an older copy, which is replaced", m.destination), "");
  }
  // The engine does not know of these before it starts it.
  for (const auto& e : exposed_in_the_way(services, wanted))
    add("host-port", peer::VERDICT_BLOCK,
        fmt::format("port {}/{} of {} is an entry, and leads to {}", e.port, e.protocol, services.settings.node,
                    e.name),
        fmt::format("transship expose rm {}:{}/{}", services.settings.node, e.port, e.protocol));
  auto image = (*engine)->has_image(wanted);
  reply.set_image_present(image && *image);
  if (!request.criu_cpuinfo().empty()) {
    auto cpu = check_cpuinfo(services.settings, request.criu_cpuinfo());
    if (cpu)
      add("cpu-features", peer::VERDICT_OK, "CRIU finds every feature of the source's CPU here", "");
    else
      add("cpu-features", peer::VERDICT_BLOCK, cpu.error().message(),
          "choose a destination with the same CPU generation");
  }
  return {};
}

void judge_network(const Services& services, const std::string& source, const peer::ContainerFacts& container,
                   const engine::Container& wanted, peer::JudgeReply& reply) {
  auto facts = cutover_facts(wanted);
  facts.source = source;
  facts.destination = services.settings.node;
  facts.home = container.home();
  facts.home_id = container.home_id();
  auto judged = services.cutover->judge_arrival(facts);
  if (judged && judged->empty()) return;
  auto* row = reply.add_rows();
  row->set_check("network");
  row->set_verdict(judged ? peer::VERDICT_OK : peer::VERDICT_BLOCK);
  row->set_found(judged ? *judged : judged.error().message());
  if (!judged) row->set_remedy(judged.error().remedy());
}

void judge_entries(const Services& services, const peer::ContainerFacts& container, peer::JudgeReply& reply) {
  if (!container.new_address() || services.entries == nullptr) return;
  for (const auto& sentence : services.entries->objections({container.exposed().begin(), container.exposed().end()})) {
    auto* row = reply.add_rows();
    row->set_check("exposed-port");
    row->set_verdict(peer::VERDICT_WARN);
    row->set_found(fmt::format("cannot lead to {}: {}", services.settings.node, sentence));
    row->set_remedy("until that has changed clients of that entry wait in vain: transship peer add, peer check");
  }
}

}  // namespace

Result<peer::JudgeReply> judge(const Services& services, const std::string& source, const peer::JudgeRequest& request) {
  TS_TRY_ASSIGN(engine::Container wanted, from_facts(request.container()));
  peer::JudgeReply reply;
  Result<NodeFacts> facts = NodeFacts{};
  Thread gather("judge-facts", [&] { facts = services.node_facts(); });
  auto judged = judge_container(services, source, request, wanted, reply);
  if (judged) judge_network(services, source, request.container(), wanted, reply);
  if (judged) judge_entries(services, request.container(), reply);
  gather.join();
  TS_TRY(judged);
  TS_TRY(facts);
  *reply.mutable_node() = to_proto(*facts);
  return reply;
}

local::PlanReply to_reply(const Planned& planned) {
  local::PlanReply reply;
  for (const auto& row : planned.result.rows) {
    auto* r = reply.add_rows();
    r->set_check(row.check);
    r->set_verdict(static_cast<peer::Verdict>(row.verdict));
    r->set_found(row.found);
    r->set_remedy(row.remedy);
  }
  const auto& p = planned.result.prediction;
  reply.set_blocked(planned.result.blocked);
  reply.set_bytes_total(p.bytes_total);
  reply.set_bytes_memory(p.bytes_memory);
  reply.set_bytes_rootfs(p.bytes_rootfs);
  reply.set_bytes_volumes(p.bytes_volumes);
  reply.set_bytes_image(p.bytes_image);
  reply.set_total_ms(p.total_ms);
  reply.set_gap_ms(p.gap_ms);
  reply.set_rtt_ms(planned.rtt_ms);
  reply.set_bits_per_second(planned.bits_per_second);
  reply.set_container(fmt::format("{}:{}", planned.survey.container.engine, planned.survey.container.name));
  return reply;
}

peer::NodeFacts to_proto(const NodeFacts& f) {
  peer::NodeFacts p;
  p.set_node(f.node);
  p.set_program_version(f.program_version);
  p.set_kernel(f.kernel);
  p.set_architecture(f.architecture);
  p.set_criu_version(f.criu_version);
  p.set_runc_version(f.runc_version);
  p.set_cgroup_mode(f.cgroup_mode);
  p.set_memory_total(f.memory_total);
  p.set_memory_available(f.memory_available);
  p.set_storage_free(f.storage_free);
  p.set_storage_free_inodes(f.storage_free_inodes);
  p.set_images_free(f.images_free);
  p.set_load_1m(f.load_1m);
  p.set_cpus(f.cpus);
  p.set_clock_unix_ms(f.clock_unix_ms);
  p.set_vdso_digest(f.vdso_digest);
  p.set_memory_tracker(f.memory_tracker);
  p.set_memory_dump(f.memory_dump);
  p.set_dump_shortcuts(f.dump_shortcuts);
  p.set_arbiter(f.arbiter);
  p.set_arbiter_error(f.arbiter_error);
  p.set_arbiter_ms(f.arbiter_ms);
  for (const auto& e : f.engines) p.add_engines(e);
  for (const auto& m : f.missing) p.add_missing(m);
  return p;
}

NodeFacts from_proto(const peer::NodeFacts& p) {
  NodeFacts f;
  f.node = p.node();
  f.program_version = p.program_version();
  f.kernel = p.kernel();
  f.architecture = p.architecture();
  f.criu_version = p.criu_version();
  f.runc_version = p.runc_version();
  f.cgroup_mode = p.cgroup_mode();
  f.memory_total = p.memory_total();
  f.memory_available = p.memory_available();
  f.storage_free = p.storage_free();
  f.storage_free_inodes = p.storage_free_inodes();
  f.images_free = p.images_free();
  f.load_1m = p.load_1m();
  f.cpus = p.cpus();
  f.clock_unix_ms = p.clock_unix_ms();
  f.vdso_digest = p.vdso_digest();
  f.memory_tracker = p.memory_tracker();
  f.memory_dump = p.memory_dump();
  f.dump_shortcuts = p.dump_shortcuts();
  f.arbiter = p.arbiter();
  f.arbiter_error = p.arbiter_error();
  f.arbiter_ms = p.arbiter_ms();
  f.engines.assign(p.engines().begin(), p.engines().end());
  f.missing.assign(p.missing().begin(), p.missing().end());
  return f;
}

}  // namespace transship::migrate
