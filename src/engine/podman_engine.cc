#include "engine/podman_engine.h"

#include <csignal>

#include <algorithm>
#include <filesystem>

#include "base/log.h"
#include "base/text.h"
#include "base/thread.h"
#include "engine/host_ports.h"
#include "engine/podman_conflicts.h"
#include "engine/podman_demands.h"
#include "sys/file.h"
#include "sys/process.h"

namespace transship::engine {
namespace {

constexpr std::chrono::hours kWatchLimit{24};
constexpr milliseconds kFixedLimit{3'000};
Deadline usual() { return Deadline::in(milliseconds(30'000)); }
std::string container_path(const std::string& name) { return "/containers/" + url_escape(name); }

// Running for Podman, but neither the container nor who would tell of its end is there any more.
bool ended_unseen(const Json& container) {
  auto gone = [&](const char* key) {
    auto pid = static_cast<pid_t>(int_at(container, {"State", key}));
    return pid > 0 && ::kill(pid, 0) < 0 && errno == ESRCH;
  };
  return gone("Pid") && gone("ConmonPid");
}

}  // namespace

PodmanEngine::PodmanEngine(const PodmanOptions& options)
    : options_(options), service_(options.program, options.runtime, options.run_dir) {}

Result<ApiResponse> PodmanEngine::call(const ApiRequest& request) {
  auto own = service_.api();
  if (own) return own->request(request);
  PodmanApi host(options_.socket);
  if (host.ping(request.deadline)) return host.request(request);
  return std::unexpected(std::move(own).error().context("nobody answers on " + options_.socket));
}

Result<Json> PodmanEngine::get(const std::string& path, const std::string& what, Deadline deadline) {
  ApiRequest r;
  r.path = path;
  r.deadline = deadline;
  TS_TRY_ASSIGN(ApiResponse response, call(r));
  if (response.status >= 400) return api_error(response, what);
  return parse_json(response.body, "podman");
}

Result<std::string> PodmanEngine::version() {
  TS_TRY_ASSIGN(Json v, get("/version", "ask Podman for its version", usual()));
  auto number = text_at(v, {"Version"});
  auto parts = split(number, '.');
  auto major = parse_u64(parts[0], "version");
  if (!major || *major < 5)
    return std::unexpected(
        Error(Errc::kKernelFeatureMissing, fmt::format("Podman {} is too old", number))
            .with_remedy("install Podman 5.1 or newer: it changes restart policies of running containers"));
  return "podman " + number;
}

Result<std::vector<Summary>> PodmanEngine::list(bool all) {
  TS_TRY_ASSIGN(Json rows, get(fmt::format("/containers/json?all={}", all), "list containers", usual()));
  return summaries_from(rows);
}

Result<Json> PodmanEngine::inspect_raw(const std::string& name, Deadline deadline) {
  return get(container_path(name) + "/json", fmt::format("inspect container {}", name), deadline);
}

Result<Json> PodmanEngine::inspect_network(const std::string& name) {
  return get(fmt::format("/networks/{}/json", url_escape(name)), "inspect network " + name, usual());
}

// Only the command line has it. It fails for containers with secrets in their environment (Podman cannot read its own
// form of them back); what inspect shows must then do.
Json PodmanEngine::generated_spec(const std::string& id) const {
  if (options_.program.empty()) return nullptr;
  auto r = sys::run_ok({.argv = {options_.program, "generate", "spec", "--compact", id}});
  auto json = r ? parse_json(r->out, "podman generate spec") : Result<Json>(nullptr);
  if (r && json) return *json;
  TS_LOG_DEBUG("podman generate spec {}: {}", id.substr(0, 12), r ? json.error().message() : r.error().message());
  return nullptr;
}

Result<PodmanAnswers> PodmanEngine::gather(const std::string& name) {
  PodmanAnswers a;
  TS_TRY_ASSIGN(a.inspect, inspect_raw(name, usual()));
  // The slowest of them, a program: beside the others.
  Thread generate("generate-spec", [&] { a.generated = generated_spec(text_at(a.inspect, {"Id"})); });
  auto image = text_at(a.inspect, {"Image"});
  if (!image.empty()) {
    TS_TRY_ASSIGN(a.image, get(fmt::format("/images/{}/json", url_escape(image)), "inspect image " + image, usual()));
  }
  if (auto config = text_at(a.inspect, {"OCIConfigPath"}); !config.empty()) {
    TS_TRY_ASSIGN(std::string text, sys::read_file(config));
    TS_TRY_ASSIGN(a.oci, parse_json(text, config));
  }
  const Json& networks = at(a.inspect, {"NetworkSettings", "Networks"});
  // A container on the host's network is shown as attached to a network "host", which is none.
  if (networks.is_object() && text_at(a.inspect, {"HostConfig", "NetworkMode"}) == "bridge") {
    for (const auto& [network, unused] : networks.items()) {
      TS_TRY_ASSIGN(Json n, inspect_network(network));
      a.networks.push_back(std::move(n));
    }
  }
  const Json& mounts = at(a.inspect, {"Mounts"});
  for (const auto& m : mounts.is_array() ? mounts : Json::array()) {
    if (text_at(m, {"Type"}) != "volume") continue;
    auto volume = text_at(m, {"Name"});
    TS_TRY_ASSIGN(Json v,
                  get(fmt::format("/volumes/{}/json", url_escape(volume)), "inspect volume " + volume, usual()));
    a.volumes.push_back(std::move(v));
  }
  generate.join();
  return a;
}

Result<Container> PodmanEngine::inspect(const std::string& name) {
  TS_TRY_ASSIGN(PodmanAnswers answers, gather(name));
  TS_TRY_ASSIGN(Container c, container_from(answers));
  c.spec = write_spec(make_spec(c, answers));
  return c;
}

Result<std::vector<Address>> PodmanEngine::addresses(const std::string& id) {
  TS_TRY_ASSIGN(Json inspect, inspect_raw(id, usual()));
  return addresses_of(inspect);
}

// Health checks and commands in containers are events as well, many of them: only what changes names and addresses.
Result<> PodmanEngine::watch(const std::function<void(const std::string& id)>& changed, const Cancel& cancel) {
  Json filters = {{"type", {"container", "network"}},
                  {"event", {"start", "restart", "died", "remove", "rename", "connect", "disconnect"}}};
  ApiRequest r;
  r.path = "/events?stream=true&filters=" + url_escape(filters.dump());
  r.deadline = Deadline::in(kWatchLimit);
  r.cancel = &cancel;
  TS_TRY_ASSIGN(PodmanApi own, service_.api());
  return own.follow(r, [&](std::string_view line) {
    auto event = parse_json(line, "podman");
    if (event) changed(text_at(*event, {"Actor", "ID"}));
  });
}

Result<> PodmanEngine::set_restart_policy(const std::string& id, const std::string& policy) {
  TS_TRY_ASSIGN(RestartPolicy wanted, parse_restart_policy(policy));
  auto what = fmt::format("set restart policy {} on container {}", policy, id.substr(0, 12));
  ApiRequest r;
  r.method = "POST";
  r.path = fmt::format("{}/update?restartPolicy={}", container_path(id), url_escape(wanted.name));
  if (wanted.name == "on-failure") r.path += fmt::format("&restartRetries={}", wanted.retries);
  r.body = "{}";
  TS_TRY_ASSIGN(ApiResponse response, call(r));
  if (response.status >= 400) return api_error(response, what);
  // A Podman that does not know these parameters ignores them.
  TS_TRY_ASSIGN(Json now, inspect_raw(id, usual()));
  auto name = text_at(now, {"HostConfig", "RestartPolicy", "Name"});
  if (name == wanted.name) return {};
  return std::unexpected(Error(Errc::kKernelFeatureMissing, fmt::format("{}: it still is \"{}\"", what, name))
                             .with_remedy("install Podman 5.1 or newer"));
}

Result<std::string> PodmanEngine::restarts(const std::string& id) {
  TS_TRY_ASSIGN(Json now, inspect_raw(id, usual()));
  return restart_policy_text(text_at(now, {"HostConfig", "RestartPolicy", "Name"}),
                             int_at(now, {"HostConfig", "RestartPolicy", "MaximumRetryCount"}));
}

Result<std::string> PodmanEngine::hold_restarts(const std::string& id) {
  TS_TRY_ASSIGN(auto held, restarts(id));
  if (held != "no") TS_TRY(set_restart_policy(id, "no"));
  return held;
}

Result<> PodmanEngine::release_restarts(const std::string& id, const std::string& held) {
  if (held == "no") return {};
  return set_restart_policy(id, held);
}

// Podman hears of a container's end from conmon. Where that is dead too it would have it in its list as running for
// good; told to stop it, it looks for itself (and answers with an error about conmon, but has noticed).
void PodmanEngine::tell_ended(const std::string& id, Deadline deadline) {
  ApiRequest r;
  r.method = "POST";
  r.path = container_path(id) + "/stop?timeout=0";
  r.deadline = deadline;
  if (auto response = call(r); !response)
    TS_LOG_WARN("podman container={} stop={}", id.substr(0, 12), response.error().message());
}

Result<bool> PodmanEngine::wait_until_ended(const std::string& id, Deadline deadline) {
  TS_TRY_ASSIGN(Cancel never, Cancel::create());
  milliseconds pause(10);
  while (true) {
    auto now = inspect_raw(id, deadline);
    if (!now && now.error().code() == Errc::kNotFound) return false;
    if (!now) return std::unexpected(std::move(now).error());
    auto state = text_at(*now, {"State", "Status"});
    if (state != "running" && state != "paused" && state != "stopping") return true;
    if (ended_unseen(*now)) tell_ended(id, deadline);
    if (deadline.passed())
      return fail(Errc::kTimeout, "container {} is still \"{}\" for Podman: its tasks have not ended", id.substr(0, 12),
                  state);
    TS_TRY(sleep_for(std::min(pause, deadline.remaining()), never));
    pause = std::min(pause * 2, milliseconds(200));
  }
}

Result<> PodmanEngine::forget(const std::string& id, bool keep, Deadline deadline) {
  TS_TRY_ASSIGN(bool there, wait_until_ended(id, deadline));
  if (!there) return {};  // also one with --rm, which Podman removes at its end
  if (!keep) return discard(id, deadline);
  auto held = hold_restarts(id);
  if (!held && held.error().code() != Errc::kNotFound) return std::unexpected(std::move(held).error());
  return {};
}

Result<std::vector<Json>> PodmanEngine::all_networks() {
  std::vector<Json> networks;
  TS_TRY_ASSIGN(Json names, get("/networks/json", "list networks", usual()));
  for (const auto& n : names.is_array() ? names : Json::array()) {
    auto name = text_at(n, {"name"});
    // With its containers, which the list lacks.
    auto one = inspect_network(name);
    if (!one && one.error().code() == Errc::kNotFound) continue;
    if (!one) return std::unexpected(std::move(one).error());
    networks.push_back(std::move(*one));
  }
  return networks;
}

void PodmanEngine::warm_up() { (void)host_info(); }

// It takes Podman 100 ms and more. The service has read its configuration at its start, so the answer stays the same.
Result<Json> PodmanEngine::host_info() {
  MutexLock lock(mu_);
  if (info_.is_null()) {
    TS_TRY_ASSIGN(info_, get("/info", "ask Podman about its host", usual()));
  }
  return info_;
}

// A program for each that is not known yet, some 80 ms long: not for longer than a plan may take.
std::vector<FixedAddress> PodmanEngine::fixed_addresses_here(const Json& containers) {
  auto until = Deadline::in(kFixedLimit);
  std::vector<FixedAddress> all;
  std::map<std::string, std::vector<FixedAddress>> known;
  {
    MutexLock lock(mu_);
    known = fixed_;
  }
  std::map<std::string, std::vector<FixedAddress>> now;
  for (const auto& c : containers.is_array() ? containers : Json::array()) {
    auto id = text_at(c, {"Id"});
    auto state = text_at(c, {"State"});
    if (state == "running" || state == "paused") continue;
    auto found = known.find(id);
    if (found == known.end() && until.passed()) continue;
    auto& of = now[id] = found == known.end() ? fixed_addresses(generated_spec(id)) : found->second;
    auto names = texts_at(c, {"Names"});
    for (auto f : of) {
      f.container = names.empty() ? id.substr(0, 12) : names[0];
      f.state = state;
      all.push_back(std::move(f));
    }
  }
  MutexLock lock(mu_);
  fixed_ = std::move(now);
  return all;
}

Result<std::vector<Conflict>> PodmanEngine::conflicts(const Container& wanted) {
  TS_TRY_ASSIGN(PodmanSpec spec, read_spec(wanted.spec));
  PodmanHost host;
  auto own = service_.api();
  if (!own) {
    auto rows = spec.blocks;
    rows.push_back({"runtime", own.error().message(), own.error().remedy()});
    return rows;
  }
  TS_TRY_ASSIGN(host.info, host_info());
  TS_TRY_ASSIGN(host.containers, get("/containers/json?all=true", "list containers", usual()));
  TS_TRY_ASSIGN(host.networks, all_networks());
  if (!wanted.addresses.empty() && !wanted.new_address) host.fixed = fixed_addresses_here(host.containers);
  TS_TRY_ASSIGN(host.listeners, listeners());
  TS_TRY_ASSIGN(Json secrets, get("/secrets/json", "list secrets", usual()));
  for (const auto& s : secrets.is_array() ? secrets : Json::array())
    host.secrets.push_back(text_at(s, {"Spec", "Name"}));
  TS_TRY_ASSIGN(host.volumes, volumes_here(""));
  for (const auto* list : {&spec.files, &spec.devices})
    for (const auto& path : *list)
      if (::access(path.c_str(), F_OK) != 0) host.missing_paths.push_back(path);
  return find_conflicts(wanted, spec, host);
}

Result<Demands> PodmanEngine::demands(const Container& wanted) {
  TS_TRY_ASSIGN(PodmanSpec spec, read_spec(wanted.spec));
  TS_TRY_ASSIGN(auto host, host_side(wanted));
  return podman_demands(wanted, spec, host);
}

Result<bool> PodmanEngine::has_image(const Container& wanted) {
  ApiRequest r;
  r.path = fmt::format("/images/{}/exists", url_escape(wanted.image_id));
  TS_TRY_ASSIGN(ApiResponse response, call(r));
  if (response.status == 404) return false;
  if (response.status >= 400) return api_error(response, "look for image " + wanted.image_id);
  return true;
}

// The answer is one JSON object a line; the last ones have the id or the error.
Result<std::string> PodmanEngine::pull_one(const std::string& reference, Deadline deadline, const Cancel& cancel) {
  ApiRequest r;
  r.method = "POST";
  r.path = fmt::format("/images/pull?reference={}&quiet=true", url_escape(reference));
  r.deadline = deadline;
  r.cancel = &cancel;
  TS_TRY_ASSIGN(ApiResponse response, call(r));
  auto what = "pull " + reference;
  if (response.status >= 400) return api_error(response, what);
  std::string id;
  for (const auto& line : split(response.body, '\n')) {
    if (trim(line).empty()) continue;
    TS_TRY_ASSIGN(Json event, parse_json(line, "podman"));
    if (auto error = text_at(event, {"error"}); !error.empty())
      return fail(Errc::kUnavailable, "{}: podman says: {}", what, error.substr(0, 2000));
    if (auto found = text_at(event, {"id"}); !found.empty()) id = found;
  }
  if (id.empty()) return fail(Errc::kPeerProtocol, "{}: podman's answer names no image", what);
  return id;
}

// A pull by digest leaves the image without that name.
Result<> PodmanEngine::name_image(const Container& wanted) {
  auto slash = wanted.image.rfind('/');
  auto colon = wanted.image.rfind(':');
  if (wanted.image.contains('@') || slash == std::string::npos || colon == std::string::npos || colon < slash)
    return {};
  ApiRequest r;
  r.path = fmt::format("/images/{}/exists", url_escape(wanted.image));
  TS_TRY_ASSIGN(ApiResponse taken, call(r));
  if (taken.status != 404) return {};
  r.method = "POST";
  r.path = fmt::format("/images/{}/tag?repo={}&tag={}", url_escape(wanted.image_id),
                       url_escape(wanted.image.substr(0, colon)), url_escape(wanted.image.substr(colon + 1)));
  TS_TRY_ASSIGN(ApiResponse response, call(r));
  if (response.status >= 400) return api_error(response, "tag the image as " + wanted.image);
  return {};
}

Result<> PodmanEngine::pull_image(const Container& wanted, const RegistryFilter& allowed, Deadline deadline,
                                  const Cancel& cancel) {
  TS_TRY_ASSIGN(PodmanSpec spec, read_spec(wanted.spec));
  std::vector<std::string> failures;
  for (const auto& reference : spec.image_refs) {
    if (!allowed(registry_of(reference))) {
      failures.push_back(fmt::format("pull {}: the policy of this host does not allow that registry", reference));
      continue;
    }
    auto id = pull_one(reference, deadline, cancel);
    if (!id && (id.error().code() == Errc::kCancelled || id.error().code() == Errc::kTimeout))
      return std::unexpected(std::move(id).error());
    if (!id)
      failures.push_back(id.error().message());
    else if (*id == wanted.image_id)
      // Under another repository's name it would be taken for what that one has.
      return repository_of(reference) == repository_of(wanted.image) ? name_image(wanted) : Result<>();
    else
      failures.push_back(fmt::format("pull {}: it is image {}, not {}", reference, *id, wanted.image_id));
  }
  if (failures.empty()) return fail(Errc::kNotFound, "image {} has no digest that it could be pulled by", wanted.image);
  return fail(Errc::kUnavailable, "{}", join(failures, "; "));
}

Result<> PodmanEngine::start(const std::string& id, Deadline deadline) {
  TS_TRY_ASSIGN(PodmanApi own, service_.api());
  ApiRequest r;
  r.method = "POST";
  r.path = container_path(id) + "/start";
  r.deadline = deadline;
  auto what = fmt::format("start container {}", id.substr(0, 12));
  TS_TRY_ASSIGN(ApiResponse response, own.request(r));
  if (response.status == 304) return fail(Errc::kAlreadyExists, "{}: it already runs", what);
  if (response.status >= 400) return api_error(response, what);
  return {};
}

Result<> PodmanEngine::discard(const std::string& id, Deadline deadline) {
  ApiRequest r;
  r.method = "DELETE";
  r.path = container_path(id) + "?force=true&timeout=0&v=true&ignore=true";
  r.deadline = deadline;
  TS_TRY_ASSIGN(ApiResponse response, call(r));
  if (response.status >= 400) {
    auto error = api_error(response, fmt::format("remove container {}", id.substr(0, 12)));
    if (error.error().code() == Errc::kNotFound) return forget_at_runtime(id, deadline);
    return error;
  }
  // One report per container, and an error in it does not show in the status.
  TS_TRY_ASSIGN(Json reports, parse_json(response.body.empty() ? "[]" : response.body, "podman"));
  for (const auto& report : reports.is_array() ? reports : Json::array())
    if (auto error = text_at(report, {"Err"}); !error.empty())
      return fail(Errc::kUnavailable, "remove container {}: podman says: {}", id.substr(0, 12), error);
  return forget_at_runtime(id, deadline);
}

// Of a runtime that was killed while it created the container: Podman, which never heard that it did, asks for nothing
// to be removed there.
Result<> PodmanEngine::forget_at_runtime(const std::string& id, Deadline deadline) const {
  if (!is_plain_name(id) || ::access(fmt::format("{}/{}", options_.runc_root, id).c_str(), F_OK) != 0) return {};
  sys::Command command{.argv = {options_.runc, "--root", options_.runc_root, "delete", "--force", id}};
  command.deadline = deadline;
  TS_TRY_ASSIGN(auto r, sys::run(command));
  if (r.exit_code == 0 || r.err.contains("does not exist")) return {};
  return fail(Errc::kUnavailable, "runc delete --force {}: {}", id.substr(0, 12), trim(r.err));
}

Result<std::unique_ptr<Engine>> make_podman_engine(const PodmanOptions& options) {
  return std::make_unique<PodmanEngine>(options);
}

}  // namespace transship::engine
