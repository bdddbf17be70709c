#include "engine/podman_spec.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/text.h"
#include "engine/podman_spec_parts.h"

namespace transship::engine {
namespace {

constexpr size_t kMaxSpec = 4U << 20;

void set_if(Json& to, const char* key, const Json& value) {
  const auto* text = value.get_ptr<const std::string*>();
  if (!value.empty() && (text == nullptr || !text->empty())) to[key] = value;
}

void copy_if(Json& to, const PodmanAnswers& a, std::initializer_list<const char*> keys) {
  for (const char* key : keys) set_if(to, key, at(a.generated, {key}));
}

void add_process(Json& body, const PodmanAnswers& a) {
  const Json& config = at(a.inspect, {"Config"});
  const Json& entrypoint = at(config, {"Entrypoint"});
  if (entrypoint.is_array() && !entrypoint.empty()) body["entrypoint"] = entrypoint;
  // The image has one and the container does not: the user took it away, and it must not come back.
  else if (!texts_at(a.image, {"Config", "Entrypoint"}).empty())
    body["entrypoint"] = Json::array();
  set_if(body, "command", at(config, {"Cmd"}));
  // All of it is in the list, the image's part too; what is not in it was taken away.
  auto [env, secret_env] = environment(a);
  body["env"] = env;
  body["unsetenvall"] = true;
  set_if(body, "secret_env", secret_env);
  body["terminal"] = bool_at(config, {"Tty"});
  body["stdin"] = bool_at(config, {"OpenStdin"});
  set_if(body, "user", at(config, {"User"}));
  set_if(body, "groups", at(a.inspect, {"HostConfig", "GroupAdd"}));
  set_if(body, "work_dir", at(config, {"WorkingDir"}));
  set_if(body, "umask", at(config, {"Umask"}));
  set_if(body, "timezone", at(config, {"Timezone"}));
  set_if(body, "labels", at(config, {"Labels"}));
  set_if(body, "annotations", annotations(a));
  if (int number = signal_number(text_at(config, {"StopSignal"})); number > 0) body["stop_signal"] = number;
  if (at(config, {"StopTimeout"}).is_number_unsigned()) body["stop_timeout"] = at(config, {"StopTimeout"});
  if (int_at(config, {"Timeout"}) > 0) body["timeout"] = int_at(config, {"Timeout"});
  body["systemd"] = bool_at(config, {"SystemdMode"}) ? "always" : "false";
  set_if(body, "sdnotifyMode", at(config, {"sdNotifyMode"}));
  body["manage_password"] = bool_at(config, {"Passwd"});
  set_if(body, "containerCreateCommand", at(config, {"CreateCommand"}));
  copy_if(body, a, {"passwd_entry", "group_entry", "hostusers"});
  if (bool_at(a.inspect, {"HostConfig", "Init"})) body["init"] = true;
  if (auto init = init_program(a); !init.empty()) body["init_path"] = init;
}

void add_health(Json& body, const PodmanAnswers& a) {
  const Json& config = at(a.inspect, {"Config"});
  set_if(body, "healthconfig", at(config, {"Healthcheck"}));
  set_if(body, "startupHealthConfig", at(config, {"StartupHealthCheck"}));
  static const std::map<std::string, int> kActions = {{"none", 0}, {"kill", 2}, {"restart", 3}, {"stop", 4}};
  if (auto it = kActions.find(text_at(config, {"HealthcheckOnFailureAction"})); it != kActions.end())
    body["health_check_on_failure_action"] = it->second;
  set_if(body, "healthLogDestination", at(config, {"HealthLogDestination"}));
  if (at(config, {"HealthcheckMaxLogCount"}).is_number_unsigned())
    body["healthMaxLogCount"] = at(config, {"HealthcheckMaxLogCount"});
  if (at(config, {"HealthcheckMaxLogSize"}).is_number_unsigned())
    body["healthMaxLogSize"] = at(config, {"HealthcheckMaxLogSize"});
}

void add_storage(Json& body, const Container& c, const PodmanAnswers& a) {
  body["image"] = c.image_id;
  set_if(body, "raw_image_name", c.image);
  // Its volumes are all listed; the image must not add new ones.
  body["image_volume_mode"] = "ignore";
  const Json& host = at(a.inspect, {"HostConfig"});
  set_if(body, "mounts", mounts(a));
  set_if(body, "volumes", volumes(a));
  copy_if(body, a, {"overlay_volumes", "image_volumes"});
  auto ipc = text_at(host, {"IpcMode"});
  if ((ipc == "private" || ipc == "shareable") && int_at(host, {"ShmSize"}) > 0)
    body["shm_size"] = int_at(host, {"ShmSize"});
  if (int_at(a.generated, {"shm_size_systemd"}) > 0)
    body["shm_size_systemd"] = int_at(a.generated, {"shm_size_systemd"});
  set_if(body, "chroot_directories", at(a.inspect, {"Config", "ChrootDirs"}));
  set_if(body, "secrets", secrets(a));
  body["read_only_filesystem"] = bool_at(host, {"ReadonlyRootfs"});
  body["read_write_tmpfs"] = has_read_write_tmpfs(a);
  set_if(body, "rootfs_propagation", at(a.oci, {"linux", "rootfsPropagation"}));
  if (c.auto_remove) body["remove"] = true;
  if (bool_at(host, {"AutoRemoveImage"})) body["removeImage"] = true;
  body["log_configuration"] = log_configuration(a);
}

void add_security(Json& body, const Container& c, const PodmanAnswers& a) {
  const Json& host = at(a.inspect, {"HostConfig"});
  body["privileged"] = c.privileged;
  set_if(body, "cap_add", at(host, {"CapAdd"}));
  set_if(body, "cap_drop", at(host, {"CapDrop"}));
  copy_if(body, a, {"selinux_opts", "label_nested"});
  set_if(body, "apparmor_profile", at(a.inspect, {"AppArmorProfile"}));
  set_if(body, "seccomp_profile_path", seccomp_profile(a));
  auto options = texts_at(host, {"SecurityOpt"});
  body["no_new_privileges"] = std::ranges::find(options, "no-new-privileges") != options.end();
  auto [mask, unmask] = masked_paths(a);
  set_if(body, "mask", mask);
  set_if(body, "unmask", unmask);
  set_if(body, "personality", at(a.oci, {"linux", "personality"}));
  if (!c.privileged) {
    set_if(body, "devices", devices(a));
    set_if(body, "device_cgroup_rule", device_rules(a));
  }
}

void add_namespaces(Json& body, const PodmanAnswers& a) {
  const Json& host = at(a.inspect, {"HostConfig"});
  body["pidns"] = namespace_mode(text_at(host, {"PidMode"}));
  body["ipcns"] = namespace_mode(text_at(host, {"IpcMode"}));
  body["utsns"] = namespace_mode(text_at(host, {"UTSMode"}));
  body["cgroupns"] = namespace_mode(text_at(host, {"CgroupMode"}));
  body["netns"] = namespace_mode(text_at(host, {"NetworkMode"}));
  // Podman's default name is the short id, and the new id is another: the name that its processes know stays.
  if (text_at(host, {"UTSMode"}) == "private") set_if(body, "hostname", at(a.inspect, {"Config", "Hostname"}));
  if (text_at(host, {"Cgroups"}) == "disabled") body["cgroups_mode"] = "disabled";
  set_if(body, "cgroup_parent", at(host, {"CgroupParent"}));
}

void add_network(Json& body, const Container& c, const PodmanAnswers& a) {
  const Json& host = at(a.inspect, {"HostConfig"});
  set_if(body, "Networks", networks(c, a));
  set_if(body, "portmappings", port_mappings(c, a));
  set_if(body, "expose", exposed_ports(a));
  copy_if(body, a, {"network_options"});
  set_if(body, "dns_server", at(host, {"Dns"}));
  set_if(body, "dns_search", at(host, {"DnsSearch"}));
  set_if(body, "dns_option", at(host, {"DnsOptions"}));
  set_if(body, "hostadd", at(host, {"ExtraHosts"}));
  set_if(body, "base_hosts_file", at(host, {"HostsFile"}));
  body["use_image_hosts"] = bool_at(a.inspect, {"UseImageHosts"});
  body["use_image_hostname"] = bool_at(a.inspect, {"UseImageHostname"});
}

void add_limits(Json& body, const PodmanAnswers& a) {
  set_if(body, "resource_limits", resource_limits(a));
  Json limits = Json::array();
  const Json& ulimits = at(a.inspect, {"HostConfig", "Ulimits"});
  for (const auto& u : ulimits.is_array() ? ulimits : Json::array()) {
    auto name = text_at(u, {"Name"});
    if (name.starts_with("RLIMIT_")) name.erase(0, 7);  // Podman puts it in front of whatever it gets
    limits.push_back({{"type", name},
                      // Podman prints "unlimited" as -1, and reads it as what it is.
                      {"soft", static_cast<uint64_t>(int_at(u, {"Soft"}))},
                      {"hard", static_cast<uint64_t>(int_at(u, {"Hard"}))}});
  }
  set_if(body, "r_limits", limits);
  // Not set is not 0: without it the runtime leaves the score as it inherits it.
  auto oom = int_at(a.inspect, {"HostConfig", "OomScoreAdj"});
  if (oom != 0 || at(a.oci, {"process", "oomScoreAdj"}).is_number()) body["oom_score_adj"] = oom;
  // Only those of the network, IPC and UTS namespaces are in config.json; defaults of the source host come along.
  set_if(body, "sysctl", at(a.oci, {"linux", "sysctl"}));
}

std::vector<std::string> image_refs(const Container& c, const PodmanAnswers& a) {
  auto refs = texts_at(a.image, {"RepoDigests"});
  std::string name = c.image.substr(0, c.image.find('@'));
  auto slash = name.rfind('/');
  if (auto colon = name.rfind(':'); colon != std::string::npos && (slash == std::string::npos || colon > slash))
    name.resize(colon);
  if (name.empty() || c.image_digest.empty()) return refs;
  auto exact = name + "@" + c.image_digest;
  std::erase(refs, exact);
  // Of the other names, those under the user's own name first.
  std::ranges::stable_partition(refs, [&](const std::string& r) { return r.starts_with(name + "@"); });
  refs.insert(refs.begin(), exact);
  return refs;
}

Json to_json(const std::vector<PodmanVolume>& volumes) {
  Json list = Json::array();
  for (const auto& v : volumes) list.push_back({{"name", v.name}, {"labels", v.labels}});
  return list;
}

Json to_json(const std::vector<Conflict>& rows) {
  Json list = Json::array();
  for (const auto& r : rows) list.push_back({r.check, r.found, r.remedy});
  return list;
}

}  // namespace

PodmanSpec make_spec(const Container& c, const PodmanAnswers& a) {
  PodmanSpec spec;
  Json& body = spec.create;
  body["name"] = c.name;
  body["restart_policy"] = "no";  // finish() puts back what it was
  add_process(body, a);
  add_health(body, a);
  add_storage(body, c, a);
  add_security(body, c, a);
  add_namespaces(body, a);
  add_network(body, c, a);
  add_limits(body, a);
  spec.image_refs = image_refs(c, a);
  for (const auto& secret : secrets(a)) spec.secrets.push_back(text_at(secret, {"Source"}));
  Json secret_env = environment(a).second;
  for (const auto& [variable, secret] : secret_env.items()) spec.secrets.push_back(secret.get<std::string>());
  for (const auto& path : {init_program(a), seccomp_profile(a)})
    if (path.starts_with('/')) spec.files.push_back(path);
  for (const auto& d : c.privileged ? Json::array() : devices(a))
    spec.devices.push_back(split(text_at(d, {"path"}), ':')[0]);
  for (const auto& v : a.volumes)
    if (!bool_at(v, {"Anonymous"})) spec.volumes.push_back({text_at(v, {"Name"}), at(v, {"Labels"})});
  spec.blocks = unmovable_parts(c, a);
  return spec;
}

std::string write_spec(const PodmanSpec& spec) {
  return write_json({{"format", 1},
                     {"create", spec.create},
                     {"image_refs", spec.image_refs},
                     {"secrets", spec.secrets},
                     {"files", spec.files},
                     {"devices", spec.devices},
                     {"volumes", to_json(spec.volumes)},
                     {"blocks", to_json(spec.blocks)}});
}

void forget_addresses(PodmanSpec& spec) {
  auto networks = spec.create.find("Networks");
  if (networks == spec.create.end() || !networks->is_object()) return;
  for (auto& [name, options] : networks->items()) {
    if (!options.is_object()) continue;
    options.erase("static_ips");
    options.erase("static_mac");
  }
}

Result<PodmanSpec> read_spec(const std::string& text) {
  if (text.size() > kMaxSpec)
    return fail(Errc::kPeerProtocol, "the container's spec is {} long, more than {}", format_bytes(text.size()),
                format_bytes(kMaxSpec));
  TS_TRY_ASSIGN(Json json, parse_json(text, "the source"));
  if (int_at(json, {"format"}) != 1 || !at(json, {"create"}).is_object())
    return fail(Errc::kPeerProtocol, "the container's spec is not one of Podman in format 1");
  PodmanSpec spec;
  spec.create = at(json, {"create"});
  spec.image_refs = texts_at(json, {"image_refs"});
  spec.secrets = texts_at(json, {"secrets"});
  spec.files = texts_at(json, {"files"});
  spec.devices = texts_at(json, {"devices"});
  const Json& volumes = at(json, {"volumes"});
  for (const auto& v : volumes.is_array() ? volumes : Json::array())
    spec.volumes.push_back({text_at(v, {"name"}), at(v, {"labels"})});
  const Json& blocks = at(json, {"blocks"});
  for (const auto& row : blocks.is_array() ? blocks : Json::array()) {
    if (!row.is_array() || row.size() != 3 || !row[0].is_string() || !row[1].is_string() || !row[2].is_string())
      return fail(Errc::kPeerProtocol, "a row of \"blocks\" in the container's spec is not three texts");
    spec.blocks.push_back({row[0], row[1], row[2]});
  }
  return spec;
}

}  // namespace transship::engine
