// transshipd: builds every object by hand, in order, and waits for a signal.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <thread>

#include "arbiter/etcd.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/text.h"
#include "base/thread.h"
#include "criu/shortcuts.h"
#include "migrate/cpu_features.h"
#include "migrate/entry_handover.h"
#include "migrate/move_table.h"
#include "node/config.h"
#include "node/names_keeper.h"
#include "node/network_watch.h"
#include "node/node_service.h"
#include "node/peer_service.h"
#include "node/policy_file.h"
#include "node/recovery.h"
#include "node/tunnel_keeper.h"
#include "sys/file.h"
#include "sys/process.h"

namespace transship::node {
namespace {

constexpr milliseconds kGarbageEvery{30'000};
constexpr milliseconds kExposuresEvery{5'000};
constexpr milliseconds kDrainingEvery{1'000};
constexpr milliseconds kHttpEvery{500};
constexpr milliseconds kProbeLimit{5000};
constexpr int kDescriptors = 4096;
// In the prefix of the tunnel's addresses (network/tunnel_key.h).
constexpr const char* kNamesAddressV6 = "fd80:ebe5:8657::53";

Result<std::vector<std::unique_ptr<engine::Engine>>> make_engines(const Config& config) {
  std::vector<std::unique_ptr<engine::Engine>> engines;
  if (config.podman_enabled) {
    engine::PodmanOptions options;
    options.socket = config.podman_socket;
    options.program = config.podman_program;
    options.run_dir = config.run_dir;
    options.runc = config.runc_program;
    options.runc_root = config.runc_root;
    auto podman = engine::make_podman_engine(options);
    // A node without Podman can still move bundles; `transship node info` says what is wrong.
    if (podman)
      engines.push_back(std::move(*podman));
    else
      TS_LOG_WARN("engine podman: {}", podman.error().message());
  }
  if (config.runc_enabled) {
    engine::RuncOptions options;
    options.program = config.runc_program;
    options.root = config.runc_root;
    options.bundles_dir = config.runc_bundles_dir;
    options.runtime = config.runtime;
    auto runc = engine::make_runc_engine(options);
    if (runc)
      engines.push_back(std::move(*runc));
    else
      TS_LOG_WARN("engine runc: {}", runc.error().message());
  }
  return engines;
}

migrate::Settings to_settings(const Config& config) {
  migrate::Settings s;
  s.node = config.node_name;
  s.program_version = wire::kProgramVersion;
  s.run_dir = config.run_dir;
  s.state_dir = config.state_dir;
  s.criu = config.criu_program;
  s.runc = config.runc_program;
  s.runtime = config.runtime;
  s.lanes = static_cast<unsigned>(config.lanes);
  s.max_bits_per_second = static_cast<uint64_t>(config.bandwidth_limit_mbit) * 1'000'000;
  s.gate_deadline = milliseconds(config.gate_deadline_ms);
  s.reservation_ttl = milliseconds(config.reservation_ttl_s * 1000);
  s.memory_margin = static_cast<uint64_t>(config.memory_margin_mib) << 20;
  s.hold_bytes = static_cast<uint64_t>(config.hold_buffer_mib) << 20;
  s.hold_grace = milliseconds(config.hold_grace_ms);
  return s;
}

TunnelKeeperOptions tunnel_options(const Config& config) {
  TunnelKeeperOptions o;
  o.enabled = config.tunnel_enabled;
  o.tunnel.interface = config.tunnel_interface;
  o.tunnel.port = static_cast<uint16_t>(config.tunnel_port);
  o.tunnel.run_dir = config.run_dir;
  o.key_file = config.state_dir + "/tunnel.key";
  return o;
}

NamesOptions names_options(const Config& config) {
  NamesOptions o;
  o.enabled = config.names_enabled;
  auto v4 = network::IpAddress::parse(config.names_address);
  auto v6 = network::IpAddress::parse(kNamesAddressV6);
  bool has_v6 = ::access("/proc/net/if_inet6", F_OK) == 0;
  for (const auto& address : {v4, v6})
    if (address && (address->is_v4() || has_v6)) o.server.addresses.push_back(*address);
  o.server.program = config.names_program;
  o.server.domain = config.names_domain;
  o.server.directory = config.run_dir + "-names";  // beside it: the server's user may not enter the run directory
  o.resolver.record = config.state_dir + "/names.resolver";
  o.resolver.address = config.names_address;
  o.resolver.own_addresses = {config.names_address, kNamesAddressV6};
  o.resolver.interface = o.server.interface;
  o.resolver.domain = config.names_domain;
  o.memory_file = config.state_dir + "/names.json";
  return o;
}

gateway::GatewayOptions http_options(const Config& config) {
  // As many as an entry may use at once; it is the containers that do the work.
  constexpr unsigned kThreads = 4;
  gateway::GatewayOptions o;
  o.program = config.http_program;
  o.directory = config.run_dir + "-http";
  o.threads = std::clamp(std::thread::hardware_concurrency(), 1U, kThreads);
  o.ipv6 = ::access("/proc/net/if_inet6", F_OK) == 0;
  return o;
}

// What the dump of memory may look like here: found out now, so that no move waits for it.
Result<criu::MethodFinding> find_memory_method(const Config& config) {
  std::string scratch = config.run_dir + "/probe";
  TS_TRY(sys::make_dirs(scratch));
  auto finding = criu::probe_memory_method(config.criu_program, scratch, Deadline::in(kProbeLimit));
  (void)sys::remove_tree(scratch);
  TS_LOG_INFO("memory dump={} {}", criu::method_name(finding.method), finding.why);
  return finding;
}

// Installed in lib/transship; in a build tree it is with the programs.
std::string find_criu_preload(const std::filesystem::path& runtime) {
  constexpr const char* kName = "libtransship-criu.so";
  for (const auto& path : {runtime.parent_path() / "../lib/transship" / kName, runtime.parent_path() / kName}) {
    if (::access(path.c_str(), R_OK) == 0) return path.lexically_normal();
  }
  return {};
}

std::string find_shortcuts(const Config& config, const std::string& library) {
  auto found = criu::probe_shortcuts(config.criu_program, library, config.run_dir, Deadline::in(kProbeLimit));
  if (found == criu::kAllShortcuts)
    TS_LOG_INFO("dump shortcuts={}", found);
  else
    TS_LOG_WARN("dump shortcuts={}: containers stand still for up to 35 ms longer per GiB of their memory", found);
  return found;
}

// The one of the tunnel comes when there is one: see serve().
Result<std::unique_ptr<network::CutoverDriver>> make_cutover(const Config& config) {
  std::vector<std::string> command;
  if (config.cutover_driver == "hook") {
    for (auto& word : split(config.cutover_hook, ' ')) {
      if (!word.empty()) command.push_back(std::move(word));
    }
  }
  return network::make_cutover_driver(command);
}

// Null: the source's journal decides. Nobody is asked yet: a node starts, and its containers run, without etcd as well.
Result<std::unique_ptr<arbiter::Arbiter>> make_arbiter(const Config& config) {
  if (config.arbiter_type != "etcd") return nullptr;
  arbiter::EtcdOptions o;
  TS_TRY_ASSIGN(o.endpoints, arbiter::parse_endpoints(config.arbiter_endpoints));
  o.tls = {config.arbiter_ca, config.arbiter_certificate, config.arbiter_key};
  o.user = config.arbiter_user;
  if (!o.user.empty()) {
    TS_TRY_ASSIGN(o.password, sys::read_file(config.arbiter_password_file, 4096));
    o.password = trim(o.password);
  }
  o.prefix = config.arbiter_prefix;
  o.node = config.node_name;
  o.lease = milliseconds(config.arbiter_lease_s * 1000);
  // libcurl says only that it cannot use one.
  for (const auto& file : {o.tls.ca, o.tls.certificate, o.tls.key})
    if (!file.empty()) TS_TRY_CTX(open_file(file, O_RDONLY), "arbiter");
  return arbiter::make_etcd_arbiter(std::move(o));
}

Result<std::unique_ptr<migrate::Services>> make_services(const Config& config) {
  TS_TRY(sys::make_dirs(config.state_dir));
  TS_TRY(sys::make_dirs(config.run_dir));
  auto settings = to_settings(config);
  TS_TRY_ASSIGN(settings.memory_method, find_memory_method(config));
  settings.criu_preload = find_criu_preload(config.runtime);
  settings.dump_shortcuts = find_shortcuts(config, settings.criu_preload);
  TS_TRY_ASSIGN(auto identity, wire::Identity::load_or_create(config.state_dir));
  TS_TRY_ASSIGN(auto store, state::open_sqlite_store(config.state_dir + "/transship.db"));
  TS_TRY_ASSIGN(auto engines, make_engines(config));
  TS_TRY_ASSIGN(auto cutover, make_cutover(config));
  TS_TRY_ASSIGN(auto arbiter, make_arbiter(config));
  return std::unique_ptr<migrate::Services>(new migrate::Services{std::move(settings), std::move(identity),
                                                                  std::move(store), std::move(engines),
                                                                  std::move(cutover), std::move(arbiter)});
}

wire::PinLookup pins_of(state::Store& store) {
  return [&store](const wire::Fingerprint& fingerprint) -> std::optional<std::string> {
    auto peers = store.peers();
    if (!peers) return std::nullopt;
    for (const auto& peer : *peers) {
      if (peer.fingerprint == fingerprint.text()) return peer.name;
    }
    return std::nullopt;
  };
}

// Blocked before any thread starts, so that only the wait below sees them.
sigset_t block_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGHUP);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  return set;
}

// One that was named must be there.
Result<plan::PolicySet> policy_of(const Config& config) {
  return load_policy(config.policy_file, config.policy_file != Config().policy_file);
}

// Until a signal ends the daemon. SIGHUP: the policy is read again; one that is wrong changes nothing.
int wait_for_end(const Config& config, migrate::Services& services, const sigset_t& signals) {
  while (true) {
    int signal = 0;
    (void)::sigwait(&signals, &signal);
    if (signal != SIGHUP) return signal;
    auto policy = policy_of(config);
    if (policy)
      services.policy.set(std::move(*policy));
    else
      TS_LOG_ERROR("policy: the one in force stays: {}", policy.error().message());
    if (policy) TS_LOG_INFO("policy: {} was read again", config.policy_file);
  }
}

Result<> serve(const Config& config, plan::PolicySet policy, const sigset_t& signals) {
  TS_TRY_ASSIGN(auto owned_services, make_services(config));
  migrate::Services& services = *owned_services;
  services.policy.set(std::move(policy));
  TS_TRY_ASSIGN(auto unfinished, recover(services));
  // Before anything moves on: containers are reached through it.
  TS_TRY_ASSIGN(auto tunnel, TunnelKeeper::start(services, tunnel_options(config)));
  migrate::Exposures exposures(*services.store, services.identity.fingerprint().text());
  if (auto r = exposures.load(); !r) TS_LOG_ERROR("expose: {}", r.error().message());
  migrate::Placements placements(*services.store, *tunnel, &exposures);
  auto owned_cutover = std::make_unique<migrate::TunnelCutover>(services, placements, *tunnel);
  auto& by_tunnel = *owned_cutover;
  if (config.cutover_driver == "tunnel") services.cutover = std::move(owned_cutover);
  if (auto r = placements.load(); !r) TS_LOG_ERROR("network: {}", r.error().message());
  migrate::HttpEntries http(http_options(config), exposures);
  migrate::Exposer exposer(services, placements, exposures, *tunnel, &http);
  services.moving = &exposer;
  migrate::EntryHandover entries(services, placements, exposures, exposer);
  services.entries = &entries;
  NetworkWatch network(placements, by_tunnel, *tunnel);
  migrate::MoveTable moves(services);
  resume(services, moves, unfinished);
  TS_TRY_ASSIGN(auto names, NamesKeeper::start(services, placements, names_options(config)));
  PeerService peers(services, moves, *tunnel, by_tunnel, exposer, *names);
  wire::ListenerOptions options;
  TS_TRY_ASSIGN(options.address, wire::parse_endpoint(config.listen, true));
  TS_TRY_ASSIGN(auto listener, wire::Listener::start(options, services.identity, pins_of(*services.store),
                                                     [&](wire::Accepted connection, const Cancel& cancel) {
                                                       peers.handle(std::move(connection), cancel);
                                                     }));
  TS_TRY_ASSIGN(auto local,
                LocalServer::start(config.socket, services, moves, *tunnel, placements, exposer, *names, *listener));
  TS_TRY_ASSIGN(Cancel stop, Cancel::create());
  Thread garbage("garbage", [&] {
    while (sleep_for(kGarbageEvery, stop)) collect_garbage(services);
  });
  Thread exposing("exposing", [&] {
    auto next = Deadline::in(kExposuresEvery);
    while (sleep_for(kDrainingEvery, stop)) {
      exposer.keep_up_draining();
      if (!next.passed()) continue;
      exposer.keep_up();
      next = Deadline::in(kExposuresEvery);
    }
  });
  Thread http_entries("http", [&] {
    do {
      exposer.keep_up_http();
    } while (sleep_for(kHttpEvery, stop));
  });
  // What these ask programs for is remembered, so that the first plan does not wait for it.
  Thread warm("warm-up", [&] {
    (void)services.node_facts();
    for (const auto& engine : services.engines) engine->warm_up();
    (void)migrate::cpuinfo_image(services.settings);
  });
  TS_LOG_INFO("node={} fingerprint={} listen={} socket={} ready", config.node_name,
              services.identity.fingerprint().text(), wire::to_text(listener->address()), config.socket);
  TS_LOG_INFO("ending on signal {}", wait_for_end(config, services, signals));
  stop.cancel("the daemon ends");
  local.reset();
  return {};
}

int complain(const Error& error) {
  fmt::print(stderr, "transshipd: {}\n", error.message());
  if (!error.remedy().empty()) fmt::print(stderr, "  {}\n", error.remedy());
  return error.code() == Errc::kInvalidArgument ? 2 : 1;
}

int list_fault_points() {
  for (const auto& point : fault::kPoints)
    fmt::print("{} {}\n", point.name, point.can_fail ? "stall fail die" : "stall die");
  return 0;
}

// For tests. Before threads.
Result<> enable_fault_points() {
  TS_TRY(fault::enable());
  if (!fault::directory().empty())
    TS_LOG_WARN("fault points are on: whoever may write to {} can stop or kill this daemon", fault::directory());
  return {};
}

int check_config(const Config& config, const plan::PolicySet& policy) {
  // The daemon would not start without its hook, nor without the files that it logs in to etcd with.
  if (auto cutover = make_cutover(config); !cutover) return complain(cutover.error());
  if (auto arbiter = make_arbiter(config); !arbiter) return complain(arbiter.error());
  for (const auto& key : describe(config)) fmt::print("{} = {}\n", key.name, key.value);
  for (const auto& key : describe(policy.everyone)) fmt::print("{} = {}\n", key.name, key.value);
  for (const auto& [peer, its] : policy.peers)
    for (const auto& key : describe(its)) fmt::print("peer.{}.{} = {}\n", peer, key.name, key.value);
  return 0;
}

}  // namespace

int run(int argc, char** argv) {
  CLI::App app("Transship's node daemon: moves running containers to and from this host.", "transshipd");
  std::string path = "/etc/transship/transshipd.toml";
  bool check = false;
  bool points = false;
  auto* file = app.add_option("--config", path, "configuration file")->capture_default_str();
  app.add_flag("--check-config", check, "check the configuration and the policy, print every value in force, and end");
  app.add_flag("--fault-points", points, "list the fault points, for tests (docs/failure-model.md), and end");
  app.set_version_flag("--version", std::string("transshipd ") + wire::kProgramVersion);
  app.footer("Exit codes: 0 ended on SIGTERM or SIGINT, 1 failed, 2 wrong usage or configuration.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  if (points) return list_fault_points();
  auto config = load_config(path, file->count() > 0);
  if (!config) return complain(config.error());
  auto policy = policy_of(*config);
  if (!policy) return complain(policy.error());
  if (check) return check_config(*config, *policy);
  if (::geteuid() != 0) return complain(Error(Errc::kRefused, "transshipd must run as root"));
  init_logging(config->log_level.c_str());
  if (auto r = enable_fault_points(); !r) return complain(r.error());
  ::umask(0077);
  sys::reserve_descriptors(kDescriptors);
  auto signals = block_signals();
  if (auto r = serve(*config, std::move(*policy), signals); !r) return complain(r.error());
  return 0;
}

}  // namespace transship::node

int main(int argc, char** argv) { return transship::node::run(argc, argv); }
