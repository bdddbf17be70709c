#include "migrate/survey.h"

#include <sys/stat.h>

#include <filesystem>
#include <map>

#include "base/text.h"
#include "memory/track/tracker.h"
#include "storage/scan.h"
#include "sys/mount_users.h"
#include "sys/node_facts.h"
#include "sys/task_tree.h"

namespace transship::migrate {
namespace {

std::string engine_names(const Services& services) {
  std::vector<std::string> names;
  for (const auto& e : services.engines) names.emplace_back(e->name());
  return names.empty() ? "none" : join(names, ", ");
}

Result<Found> find_in_all(const Services& services, const std::string& name) {
  std::vector<Found> found;
  std::vector<std::string> problems;
  for (const auto& e : services.engines) {
    auto container = e->inspect(name);
    if (container) {
      found.push_back({e.get(), std::move(*container)});
    } else if (container.error().code() != Errc::kNotFound) {
      problems.push_back(container.error().message());
    }
  }
  if (found.size() == 1) return std::move(found[0]);
  if (found.size() > 1) {
    std::vector<std::string> names;
    for (const auto& f : found) names.push_back(fmt::format("{}:{}", f.engine->name(), name));
    return fail(Errc::kInvalidArgument, "\"{}\" is a container of several engines: say {}", name, join(names, " or "));
  }
  if (!problems.empty()) return fail(Errc::kUnavailable, "look for container \"{}\": {}", name, join(problems, "; "));
  return std::unexpected(Error(Errc::kNotFound, fmt::format("no container \"{}\" on this node (engines: {})", name,
                                                            engine_names(services)))
                             .with_remedy("`transship ps -a` lists the containers of this node"));
}

constexpr milliseconds kArbiterLimit{3000};

void add_arbiter(arbiter::Arbiter& arbiter, NodeFacts& facts) {
  auto never = Cancel::create();
  auto health = never ? arbiter.check(Deadline::in(kArbiterLimit), *never)
                      : Result<arbiter::Health>(std::unexpected(never.error()));
  // Not which one, but that there is one, and nothing that could be taken for the same as another node's.
  facts.arbiter = health ? health->identity : "etcd, which does not answer";
  if (!health) facts.arbiter_error = health.error().message();
  if (health) facts.arbiter_ms = static_cast<uint32_t>(health->latency.count());
}

}  // namespace

Result<engine::Engine*> Services::engine(std::string_view name) const {
  for (const auto& e : engines) {
    if (e->name() == name) return e.get();
  }
  return fail(Errc::kNotFound, "no engine \"{}\" on node {}; there are: {}", name, settings.node, engine_names(*this));
}

Result<wire::PeerTarget> Services::peer(const std::string& name) const {
  auto peer = store->peer(name);
  if (!peer)
    return std::unexpected(
        std::move(peer).error().with_remedy("`transship peer ls` lists the peers, `transship peer add` pins one"));
  if (peer->address.empty())
    return std::unexpected(Error(Errc::kInvalidArgument, fmt::format("peer {} has no address", name))
                               .with_remedy(fmt::format("`transship peer add {} ADDRESS`", name)));
  TS_TRY_ASSIGN(wire::Endpoint endpoint, wire::parse_endpoint(peer->address));
  TS_TRY_ASSIGN(wire::Fingerprint fingerprint, wire::Fingerprint::parse(peer->fingerprint));
  return wire::PeerTarget{name, std::move(endpoint), std::move(fingerprint)};
}

Result<NodeFacts> Services::node_facts() const {
  sys::NodeFactsOptions options;
  options.node = settings.node;
  options.program_version = settings.program_version;
  options.storage_path = settings.storage_path;
  options.criu = settings.criu;
  options.runc = settings.runc;
  options.runtime = settings.runtime;
  TS_TRY_ASSIGN(NodeFacts facts, sys::collect_node_facts(options));
  auto tracker = memory::choose_tracker();
  facts.memory_tracker = memory::tracker_name(tracker.kind);
  if (!tracker.why.empty()) facts.memory_tracker += ": " + tracker.why;
  const auto& method = settings.memory_method;
  facts.memory_dump = criu::method_name(method.method);
  if (!method.why.empty()) facts.memory_dump += ": " + method.why;
  facts.dump_shortcuts = settings.dump_shortcuts;
  for (const auto& e : engines) {
    auto version = e->version();
    facts.engines.push_back(version ? *version
                                    : fmt::format("{} (not usable: {})", e->name(), version.error().message()));
  }
  if (arbiter) add_arbiter(*arbiter, facts);
  auto taken = reservations.totals();
  auto minus = [](uint64_t a, uint64_t b) { return a > b ? a - b : 0; };
  facts.memory_available =
      minus(facts.memory_available, taken.memory_bytes + taken.images_bytes + settings.memory_margin);
  facts.images_free = minus(facts.images_free, taken.memory_bytes + taken.images_bytes + settings.memory_margin);
  facts.storage_free = minus(facts.storage_free, taken.storage_bytes);
  return facts;
}

Result<Found> find_container(const Services& services, const std::string& name) {
  auto colon = name.find(':');
  std::string bare = colon == std::string::npos ? name : name.substr(colon + 1);
  if (!is_plain_name(bare))
    return std::unexpected(Error(Errc::kInvalidArgument, fmt::format("\"{}\" is not a container name", name))
                               .with_remedy("names are NAME, podman:NAME or runc:ID; `transship ps` lists them"));
  if (colon == std::string::npos) return find_in_all(services, name);
  TS_TRY_ASSIGN(engine::Engine * engine, services.engine(name.substr(0, colon)));
  auto container = engine->inspect(bare);
  if (!container)
    return std::unexpected(
        std::move(container).error().with_remedy("`transship ps -a` lists the containers of this node"));
  return Found{engine, std::move(*container)};
}

std::string travelling_root(const engine::Container& c) { return c.rootfs_kind == "overlay" ? c.upper_dir : c.rootfs; }

Result<TreeSize> travelling_size(const engine::Container& container, const Cancel& cancel) {
  std::string path = travelling_root(container);
  if (path.empty()) return TreeSize{};
  TS_TRY_ASSIGN(Fd root, open_file(path, O_RDONLY | O_DIRECTORY));
  auto scan = storage::scan_tree(root.get(), cancel);
  if (!scan) return std::unexpected(std::move(scan).error().context(fmt::format("measure {}", path)));
  return TreeSize{scan->disk_bytes(), scan->entries() - 1};
}

Result<> measure_volumes(Survey& s, const Cancel& cancel) {
  for (auto& m : s.container.mounts) {
    if (!engine::is_volume(m)) continue;
    struct stat st = {};
    if (::stat(m.source.c_str(), &st) == 0 && !S_ISDIR(st.st_mode)) continue;  // the plan says so
    TS_TRY_ASSIGN(Fd root, open_file(m.source, O_RDONLY | O_DIRECTORY));
    auto scan = storage::scan_tree(root.get(), cancel);
    if (!scan) return std::unexpected(std::move(scan).error().context(fmt::format("measure {}", m.source)));
    m.bytes = scan->disk_bytes();
    s.volume_bytes += m.bytes;
    m.files = scan->entries() - 1;
    s.volume_files += m.files;
  }
  return {};
}

// By their mount namespaces: so also what no engine of ours has made.
Result<> find_sharers(const Services& services, engine::Container& container, const std::vector<pid_t>& pids) {
  std::vector<std::string> paths;
  std::error_code error;
  for (const auto& m : container.mounts)
    if (engine::is_volume(m) && std::filesystem::exists(m.source, error)) paths.push_back(m.source);
  TS_TRY_ASSIGN(auto users, sys::mount_users(paths, pids));
  if (users.empty()) return {};
  std::map<std::string, std::string> names;  // by mount namespace
  for (const auto& engine : services.engines) {
    auto running = engine->list(false);
    for (const auto& c : running ? *running : std::vector<engine::Summary>())
      if (c.pid > 0) names.emplace(sys::mount_namespace_of(c.pid), fmt::format("{}:{}", c.engine, c.name));
  }
  for (const auto& user : users) {
    auto name = names.find(sys::mount_namespace_of(user.pid));
    auto who = name != names.end() ? name->second : fmt::format("{} (process {})", user.name, user.pid);
    for (auto& m : container.mounts)
      if (engine::is_volume(m) && m.source == user.path) m.used_by.push_back(who);
  }
  return {};
}

Result<Survey> survey(const Services& services, const std::string& name) {
  TS_TRY_ASSIGN(Found found, find_container(services, name));
  Survey s;
  s.engine = found.engine;
  s.container = std::move(found.container);
  if (s.container.pid <= 0) return s;
  TS_TRY_ASSIGN(sys::Cgroup cgroup, sys::Cgroup::of_process(s.container.pid));
  TS_TRY_ASSIGN(s.pids, cgroup.processes());
  TS_TRY_ASSIGN(s.tasks, sys::inspect_tasks(s.container.pid, s.pids));
  return s;
}

plan::ContainerSide container_side(const engine::Container& c) {
  plan::ContainerSide side;
  side.engine = c.engine;
  side.name = c.name;
  side.state = c.state;
  side.rootfs_kind = c.rootfs_kind;
  side.upper_dir = c.upper_dir;
  side.image = c.image;
  side.image_digest = c.image_digest;
  side.image_bytes = c.image_bytes;
  for (const auto& a : c.addresses) side.addresses.push_back(a.ip);
  for (const auto& p : c.host_ports) side.host_ports.push_back({p.host_ip, p.host_port, p.container_port, p.protocol});
  for (const auto& m : c.mounts) {
    struct stat st = {};
    bool directory = ::stat(m.source.c_str(), &st) != 0 || S_ISDIR(st.st_mode);
    side.mounts.push_back(
        {m.type, m.source, m.destination, m.volume, m.bytes, engine::is_volume(m) && !directory, m.used_by});
  }
  side.network_mode = c.network_mode;
  side.restart_policy = c.restart_policy;
  side.auto_remove = c.auto_remove;
  side.terminal = c.terminal;
  side.privileged = c.privileged;
  side.pod = c.pod;
  side.memory_limit = c.memory_limit;
  return side;
}

plan::Abilities abilities() { return {}; }

}  // namespace transship::migrate
