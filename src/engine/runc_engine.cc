#include "engine/runc_engine.h"

#include <algorithm>
#include <filesystem>

#include "base/fd.h"
#include "base/log.h"
#include "base/text.h"
#include "engine/bundle_demands.h"
#include "engine/volumes.h"
#include "sys/file.h"
#include "sys/nft_table.h"
#include "sys/process.h"
#include "sys/program_version.h"
#include "sys/search_path.h"

namespace transship::engine {
namespace {

namespace fs = std::filesystem;
Deadline usual() { return Deadline::in(milliseconds(30'000)); }

Result<> check_id(const std::string& id) {
  if (is_plain_name(id)) return {};
  return fail(Errc::kInvalidArgument, "\"{}\" is not an id that runc takes", id.substr(0, 64));
}

}  // namespace

// Everything but loopback, as the container sees it.
Result<std::vector<Address>> addresses_in(const std::string& netns) {
  TS_TRY_ASSIGN(auto r, sys::run_ok({.argv = {"nsenter", "--net=" + netns, "ip", "-json", "address"}}));
  TS_TRY_ASSIGN(Json links, parse_json(r.out, "ip"));
  std::vector<Address> addresses;
  for (const auto& link : links.is_array() ? links : Json::array()) {
    const Json& on_it = at(link, {"addr_info"});
    for (const auto& a : on_it.is_array() ? on_it : Json::array()) {
      if (text_at(link, {"link_type"}) == "loopback" || text_at(a, {"scope"}) != "global") continue;
      Address address;
      address.ip = text_at(a, {"local"});
      address.prefix = static_cast<unsigned>(int_at(a, {"prefixlen"}));
      address.mac = text_at(link, {"address"});
      address.interface = text_at(link, {"ifname"});
      addresses.push_back(std::move(address));
    }
  }
  return addresses;
}

namespace {

std::vector<Conflict> namespace_conflicts(const Container& wanted, const Json& config) {
  std::vector<Conflict> rows;
  const Json& all = at(config, {"linux", "namespaces"});
  for (const auto& n : all.is_array() ? all : Json::array()) {
    auto path = text_at(n, {"path"});
    if (path.empty() || ::access(path.c_str(), F_OK) == 0) continue;
    bool network = text_at(n, {"type"}) == "network";
    rows.push_back({network ? "network" : "namespace",
                    fmt::format("this host has no {} namespace at {}", text_at(n, {"type"}), path),
                    network
                        ? fmt::format("make it there with the container's address, as on the source: ip netns add {}",
                                      fs::path(path).filename().string())
                        : "make it there under the same path"});
  }
  if (wanted.new_address) {
    rows.push_back({"new-address",
                    "the network of a plain bundle is made by whoever runs it, so Transship cannot give it an address",
                    "move it without --new-ip, with its address in the network namespace there"});
    return rows;
  }
  auto network = bundle_network(config);
  if (network == "private" && !wanted.addresses.empty())
    rows.push_back(
        {"network",
         fmt::format("runc makes its network namespace, and something else put {} into it", wanted.addresses[0].ip),
         "give config.json the path of a network namespace that exists on both hosts"});
  if (!network.starts_with('/') || ::access(network.c_str(), F_OK) != 0) return rows;
  auto there = addresses_in(network);
  for (const auto& a : wanted.addresses) {
    bool has = there && std::ranges::any_of(*there, [&](const Address& t) { return t.ip == a.ip; });
    if (!has)
      rows.push_back({"address", fmt::format("the network namespace {} of this host has no {}", network, a.ip),
                      fmt::format("ip -n {} address add {}/{} dev {} there", fs::path(network).filename().string(),
                                  a.ip, a.prefix, a.interface)});
  }
  return rows;
}

}  // namespace

constexpr milliseconds kVersionLimit{30'000};

Result<std::string> RuncEngine::version() {
  auto r = sys::version_output(options_.program, Deadline::in(kVersionLimit));
  if (!r)
    return std::unexpected(Error(Errc::kUnavailable, r.error().message()).with_remedy("install runc, or set its path"));
  // "runc version 1.1.15+ds1"
  auto line = std::string(trim(r->substr(0, r->find('\n'))));
  auto last = line.rfind(' ');
  return "runc " + (last == std::string::npos ? line : line.substr(last + 1));
}

namespace {

// Engines run their containers with the same runc: those are theirs, not plain bundles. Empty: nobody's.
std::string manager_of(const Json& state) {
  for (const char* key : {"io.container.manager", "io.kubernetes.cri.container-type"}) {
    auto manager = text_at(state, {"annotations", key});
    if (!manager.empty()) return manager;
  }
  return {};
}

}  // namespace

Result<std::vector<Summary>> RuncEngine::list(bool all) {
  TS_TRY_ASSIGN(auto r, sys::run_ok({.argv = {options_.program, "--root", options_.root, "list", "--format", "json"}}));
  TS_TRY_ASSIGN(Json rows, parse_json(r.out, "runc"));
  std::vector<Summary> list;
  for (const auto& c : rows.is_array() ? rows : Json::array()) {
    auto state = text_at(c, {"status"});
    if (!all && state != "running" && state != "paused") continue;
    if (!manager_of(c).empty()) continue;
    list.push_back({"runc", text_at(c, {"id"}), text_at(c, {"id"}), "", state, static_cast<pid_t>(int_at(c, {"pid"}))});
  }
  return list;
}

Result<Json> RuncEngine::state(const std::string& id, Deadline deadline) {
  TS_TRY(check_id(id));
  // Neither a wait for runc nor a message in a language: the directory is there or is not.
  if (::access(fmt::format("{}/{}/state.json", options_.root, id).c_str(), F_OK) != 0)
    return fail(Errc::kNotFound, "runc has no container {} below {}", id, options_.root);
  sys::Command command{.argv = {options_.program, "--root", options_.root, "state", id}};
  command.deadline = deadline;
  auto r = sys::run_ok(command);
  if (!r && r.error().message().contains("does not exist"))
    return fail(Errc::kNotFound, "runc has no container {} below {}", id, options_.root);
  if (!r) return std::unexpected(std::move(r).error());
  return parse_json(r->out, "runc");
}

Result<Container> RuncEngine::inspect(const std::string& name) {
  TS_TRY_ASSIGN(Json now, state(name, usual()));
  if (auto manager = manager_of(now); !manager.empty())
    return fail(Errc::kNotFound, "runc container {} belongs to {}: name it by that engine", name, manager);
  Container c;
  c.engine = "runc";
  c.id = c.name = name;
  c.state = text_at(now, {"status"});
  c.pid = static_cast<pid_t>(int_at(now, {"pid"}));
  c.bundle = text_at(now, {"bundle"});
  c.rootfs = text_at(now, {"rootfs"});
  c.rootfs_kind = "plain";
  c.runtime = options_.program;
  c.restart_policy = "no";
  TS_TRY_ASSIGN(Bundle bundle, read_bundle(c.bundle, c.rootfs));
  c.mounts = bundle_volumes(bundle);
  c.terminal = bool_at(bundle.config, {"process", "terminal"});
  c.memory_limit =
      static_cast<uint64_t>(std::max<int64_t>(0, int_at(bundle.config, {"linux", "resources", "memory", "limit"})));
  c.cgroup_parent = fs::path(text_at(bundle.config, {"linux", "cgroupsPath"})).parent_path();
  auto network = bundle_network(bundle.config);
  c.network_mode = network.starts_with('/') ? "ns:" + network : network;
  if (c.pid > 0 && network != "host") {
    TS_TRY_ASSIGN(c.addresses, addresses_in(fmt::format("/proc/{}/ns/net", c.pid)));
  }
  c.spec = write_bundle_spec(bundle);
  return c;
}

Result<std::string> RuncEngine::restarts(const std::string& id) {
  TS_TRY_ASSIGN(Json now, state(id, usual()));
  return std::string("no");
}

Result<std::string> RuncEngine::hold_restarts(const std::string& id) { return restarts(id); }

Result<> RuncEngine::release_restarts(const std::string&, const std::string&) { return {}; }

Result<> RuncEngine::remove(const std::string& id, Deadline deadline) {
  TS_TRY(check_id(id));
  sys::Command command{.argv = {options_.program, "--root", options_.root, "delete", "--force", id}};
  command.deadline = deadline;
  TS_TRY_ASSIGN(auto r, sys::run(command));
  if (r.exit_code == 0 || r.err.contains("does not exist")) return {};
  return fail(Errc::kUnavailable, "runc delete --force {}: {}", id, trim(r.err));
}

Result<> RuncEngine::forget(const std::string& id, bool keep, Deadline deadline) {
  TS_TRY_ASSIGN(Cancel never, Cancel::create());
  milliseconds pause(10);
  while (true) {
    auto now = state(id, deadline);
    if (!now && now.error().code() == Errc::kNotFound) break;
    if (!now) return std::unexpected(std::move(now).error());
    if (text_at(*now, {"status"}) == "stopped") break;
    if (deadline.passed())
      return fail(Errc::kTimeout, "container {} is still {} for runc", id, text_at(*now, {"status"}));
    TS_TRY(sleep_for(std::min(pause, deadline.remaining()), never));
    pause = std::min(pause * 2, milliseconds(200));
  }
  if (keep) return open_network(id, deadline);
  return discard(id, deadline);
}

// CRIU's lock and ours of the source, and our hold of a parked container, are tables in the container's network
// namespace. One that the operator prepared outlives the container: there they would shut out whatever comes next.
Result<> RuncEngine::open_network(const std::string& id, Deadline deadline) {
  auto now = state(id, deadline);
  if (!now) return {};
  TS_TRY_ASSIGN(Bundle bundle, read_bundle(text_at(*now, {"bundle"}), text_at(*now, {"rootfs"})));
  auto network = bundle_network(bundle.config);
  if (!network.starts_with('/')) return {};
  sys::Command list{.argv = {"nsenter", "--net=" + network, "nft", "list", "tables"}};
  list.deadline = deadline;
  TS_TRY_ASSIGN(auto listed, sys::run_ok(list));
  sys::Command remove{.argv = {"nsenter", "--net=" + network, "nft", "-f", "-"}};
  remove.deadline = deadline;
  for (const auto& line : split(listed.out, '\n')) {
    bool ours = line.starts_with("table inet CRIU-") || line == "table inet transship_hold" ||
                line == "table inet transship_leaving";
    if (ours) remove.input += fmt::format("delete {}\n", line);
  }
  if (!remove.input.empty()) TS_TRY(sys::run_ok(remove));
  return {};
}

Result<std::vector<Conflict>> RuncEngine::conflicts(const Container& wanted) {
  TS_TRY(check_id(wanted.id));
  TS_TRY_ASSIGN(Bundle bundle, read_bundle_spec(wanted.spec));
  auto rows = bundle.blocks;
  for (const auto& row : bind_conflicts(wanted)) rows.push_back(row);
  for (const auto& row : namespace_conflicts(wanted, bundle.config)) rows.push_back(row);
  if (::access(fmt::format("{}/{}", options_.root, wanted.id).c_str(), F_OK) == 0)
    rows.push_back({"name", fmt::format("runc of this host has a container {}", wanted.id),
                    fmt::format("runc delete {} there", wanted.id)});
  else if (::access(bundle_of(wanted.id).c_str(), F_OK) == 0)
    rows.push_back(
        {"name", fmt::format("this host has a bundle {} already", bundle_of(wanted.id)), "move it away, or remove it"});
  if (!sys::find_program(options_.runtime))
    rows.push_back(
        {"runtime", fmt::format("{} is not a program on this host", options_.runtime), "install transship there"});
  return rows;
}

Result<Demands> RuncEngine::demands(const Container& wanted) {
  TS_TRY_ASSIGN(Bundle bundle, read_bundle_spec(wanted.spec));
  return bundle_demands(bundle, look_at_host(wanted), [](const std::string& path) { return sys::is_own_netns(path); });
}

Result<Staged> RuncEngine::stage(const Container& wanted, Deadline, const Cancel& cancel) {
  TS_TRY(check_id(wanted.id));
  TS_TRY(cancel.check());
  TS_TRY_ASSIGN(Bundle bundle, read_bundle_spec(wanted.spec));
  TS_TRY_ASSIGN(Demands asked, demands(wanted));
  if (!asked.never.empty()) return fail(Errc::kRefused, "{}", asked.never.front());
  if (::access(fmt::format("{}/{}", options_.root, wanted.id).c_str(), F_OK) == 0)
    return fail(Errc::kAlreadyExists, "runc of this host has a container {} already", wanted.id);
  TS_TRY(write_bundle(bundle, bundle_of(wanted.id), wanted.arrival));
  Staged staged{wanted.id, "", bundle_of(wanted.id) + "/rootfs", "plain", {}};
  for (const auto& m : wanted.mounts)
    if (is_volume(m)) staged.volumes.push_back({m.destination, m.source});
  if (auto made = make_bind_directories(wanted); !made) {
    (void)discard_arrival(wanted, usual());
    return std::unexpected(std::move(made).error());
  }
  return staged;
}

// The restored tasks keep the pipe that was their output; a `cat` that nobody waits for writes it into the bundle's
// log and ends with them. A file instead of the pipe could not be moved again.
Result<> RuncEngine::create(const std::string& id, Deadline deadline) {
  auto bundle = bundle_of(id);
  TS_TRY_ASSIGN(Pipe output, make_pipe());
  TS_TRY_ASSIGN(Fd null_fd, open_file("/dev/null", O_RDWR));
  sys::Child::Options keeper;
  // By way of 3: what a shell starts in the background has /dev/null as 0.
  keeper.argv = {"sh", "-c", "exec 3<&0; setsid cat <&3 3<&- >>\"$1\" 2>/dev/null &", "sh", bundle + "/output.log"};
  keeper.stdin_fd = output.read.get();
  keeper.stdout_fd = keeper.stderr_fd = null_fd.get();
  TS_TRY_ASSIGN(sys::Child shell, sys::Child::spawn(keeper));
  TS_TRY_ASSIGN(int shell_code, shell.wait(deadline));
  if (shell_code != 0)
    return fail(Errc::kUnavailable, "start the writer of {}/output.log: code {}", bundle, shell_code);
  auto log = bundle + "/runtime.log";
  sys::Child::Options options;
  options.argv = {options_.runtime, "--root", options_.root, "--log",         log, "create",
                  "--bundle",       bundle,   "--pid-file",  bundle + "/pid", id};
  options.stdout_fd = options.stderr_fd = output.write.get();
  TS_TRY_ASSIGN(sys::Child child, sys::Child::spawn(options));
  auto code = child.wait(deadline);
  if (!code) return std::unexpected(std::move(code).error().context(fmt::format("{} create {}", options_.runtime, id)));
  if (*code == 0) return {};
  auto text = sys::read_file(log).value_or("");
  auto why = trim(text);
  return fail(Errc::kUnavailable, "{} create {} ended with code {}: {}", options_.runtime, id, *code,
              why.empty() ? "no message" : why.substr(why.size() > 2000 ? why.size() - 2000 : 0));
}

Result<> RuncEngine::start(const std::string& id, Deadline deadline) {
  TS_TRY(check_id(id));
  TS_TRY(create(id, deadline));
  sys::Command command{.argv = {options_.runtime, "--root", options_.root, "start", id}};
  command.deadline = deadline;
  TS_TRY(sys::run_ok(command));
  return {};
}

Result<> RuncEngine::finish(const std::string&, const Container& wanted) {
  keep_bind_directories(wanted);
  return {};
}

Result<> RuncEngine::discard(const std::string& id, Deadline deadline) {
  if (auto r = open_network(id, deadline); !r) TS_LOG_WARN("runc container {}: {}", id, r.error().message());
  TS_TRY(remove(id, deadline));
  return sys::remove_tree(bundle_of(id));
}

// Nothing of runc's own is made before the start.
Result<> RuncEngine::discard_arrival(const Container& wanted, Deadline deadline) {
  TS_TRY(check_id(wanted.id));
  TS_TRY(remove_bind_directories(wanted));
  (void)::rmdir(bundle_of(wanted.id).c_str());  // which takes an empty one only: its mark is the first file
  auto mark = sys::read_file(fmt::format("{}/{}", bundle_of(wanted.id), kArrivalFile), 4096);
  if (!mark || *mark != wanted.arrival || state(wanted.id, deadline)) return {};
  return sys::remove_tree(bundle_of(wanted.id));
}

Result<std::unique_ptr<Engine>> make_runc_engine(const RuncOptions& options) {
  return std::make_unique<RuncEngine>(options);
}

}  // namespace transship::engine
