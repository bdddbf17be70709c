#include "engine/podman_spec_parts.h"

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstring>
#include <set>

#include "base/text.h"

namespace transship::engine {
namespace {

// Podman sets these itself, from other fields or at every start; we do the last move's.
bool is_podmans_own(std::string_view key) {
  constexpr std::string_view kOwn[] = {"io.container.manager",
                                       "io.podman.annotations.autoremove",
                                       "io.podman.annotations.autoremove-image",
                                       "io.podman.annotations.cid-file",
                                       "io.podman.annotations.init",
                                       "io.podman.annotations.privileged",
                                       "io.podman.annotations.volumes-from",
                                       kArrivalAnnotation,
                                       "org.opencontainers.image.stopSignal",
                                       "org.systemd.property.KillSignal",
                                       "org.systemd.property.TimeoutStopUSec"};
  return std::ranges::find(kOwn, key) != std::end(kOwn);
}

const Json* mount_at(const Json& oci, std::string_view destination) {
  const Json& list = at(oci, {"mounts"});
  if (!list.is_array()) return nullptr;
  auto it = std::ranges::find_if(list, [&](const Json& m) { return text_at(m, {"destination"}) == destination; });
  return it == list.end() ? nullptr : &*it;
}

Json options_of(const std::string& text) { return text.empty() ? Json::array() : Json(split(text, ',')); }

}  // namespace

std::pair<Json, Json> environment(const PodmanAnswers& a) {
  Json env = Json::object();
  Json secret_env = Json::object();
  auto shown = texts_at(a.inspect, {"Config", "Env"});
  // The runtime got the same list with the names and values that inspect hides: SECRET=******* there is NAME=value
  // here.
  auto real = texts_at(a.oci, {"process", "env"});
  for (size_t n = 0; n < shown.size(); ++n) {
    auto equals = shown[n].find('=');
    if (equals == std::string::npos) continue;
    auto name = shown[n].substr(0, equals);
    bool hidden = shown[n].substr(equals) == "=*******";
    if (hidden && n < real.size() && real[n] != shown[n])
      secret_env[real[n].substr(0, real[n].find('='))] = name;
    else
      env[name] = shown[n].substr(equals + 1);
  }
  return {env, secret_env};
}

Json annotations(const PodmanAnswers& a) {
  Json kept = Json::object();
  const Json& all = at(a.inspect, {"Config", "Annotations"});
  if (all.is_object())
    for (const auto& [key, value] : all.items())
      if (!is_podmans_own(key)) kept[key] = value;
  return kept;
}

Json mounts(const PodmanAnswers& a) {
  if (const Json& exact = at(a.generated, {"mounts"}); exact.is_array()) return exact;
  Json list = Json::array();
  const Json& shown = at(a.inspect, {"Mounts"});
  for (const auto& m : shown.is_array() ? shown : Json::array()) {
    if (text_at(m, {"Type"}) != "bind") continue;
    auto options = texts_at(m, {"Options"});
    options.emplace_back(bool_at(m, {"RW"}) ? "rw" : "ro");
    if (auto propagation = text_at(m, {"Propagation"}); !propagation.empty()) options.push_back(propagation);
    list.push_back({{"type", "bind"},
                    {"source", text_at(m, {"Source"})},
                    {"destination", text_at(m, {"Destination"})},
                    {"options", options}});
  }
  const Json& tmpfs = at(a.inspect, {"HostConfig", "Tmpfs"});
  if (tmpfs.is_object())
    for (const auto& [destination, options] : tmpfs.items())
      list.push_back({{"type", "tmpfs"},
                      {"source", "tmpfs"},
                      {"destination", destination},
                      {"options", options_of(options.is_string() ? options.get<std::string>() : "")}});
  return list;
}

Json volumes(const PodmanAnswers& a) {
  if (const Json& exact = at(a.generated, {"volumes"}); exact.is_array()) return exact;
  Json list = Json::array();
  const Json& shown = at(a.inspect, {"Mounts"});
  for (const auto& m : shown.is_array() ? shown : Json::array()) {
    if (text_at(m, {"Type"}) != "volume") continue;
    auto options = texts_at(m, {"Options"});
    if (!bool_at(m, {"RW"})) options.emplace_back("ro");
    list.push_back(
        {{"Name", text_at(m, {"Name"})}, {"Dest", text_at(m, {"Destination"})}, {"Options", std::move(options)}});
  }
  return list;
}

Json secrets(const PodmanAnswers& a) {
  Json list = Json::array();
  const Json& shown = at(a.inspect, {"Config", "Secrets"});
  for (const auto& s : shown.is_array() ? shown : Json::array())
    list.push_back({{"Source", text_at(s, {"Name"})},
                    {"Target", text_at(s, {"Name"})},
                    {"UID", int_at(s, {"UID"})},
                    {"GID", int_at(s, {"GID"})},
                    {"Mode", int_at(s, {"Mode"})}});
  return list;
}

// {"path": "/dev/fuse:/dev/fuse:rwm"}, as the command line has it.
Json devices(const PodmanAnswers& a) {
  if (const Json& exact = at(a.generated, {"host_device_list"}); exact.is_array()) return exact;
  Json list = Json::array();
  const Json& shown = at(a.inspect, {"HostConfig", "Devices"});
  for (const auto& d : shown.is_array() ? shown : Json::array()) {
    auto access = text_at(d, {"CgroupPermissions"});
    list.push_back({{"path", fmt::format("{}:{}:{}", text_at(d, {"PathOnHost"}), text_at(d, {"PathInContainer"}),
                                         access.empty() ? "rwm" : access)}});
  }
  return list;
}

// The list holds "deny all", one rule per device of its own, and what the user asked for: only the last is carried.
Json device_rules(const PodmanAnswers& a) {
  std::multiset<std::string> of_devices;
  auto key = [](const Json& d) {
    return fmt::format("{}:{}:{}", text_at(d, {"type"}), int_at(d, {"major"}), int_at(d, {"minor"}));
  };
  const Json& own = at(a.oci, {"linux", "devices"});
  for (const auto& d : own.is_array() ? own : Json::array()) of_devices.insert(key(d));
  Json kept = Json::array();
  const Json& rules = at(a.generated, {"resource_limits", "devices"});
  for (const auto& rule : rules.is_array() ? rules : Json::array()) {
    if (!bool_at(rule, {"allow"})) continue;
    if (auto it = of_devices.find(key(rule)); it != of_devices.end())
      of_devices.erase(it);
    else
      kept.push_back(rule);
  }
  return kept;
}

Json log_configuration(const PodmanAnswers& a) {
  const Json& shown = at(a.inspect, {"HostConfig", "LogConfig"});
  Json log = Json::object();
  log["driver"] = text_at(shown, {"Type"});
  if (auto size = parse_human_size(text_at(shown, {"Size"})); size > 0) log["size"] = size;
  if (auto tag = text_at(shown, {"Tag"}); !tag.empty()) log["options"] = {{"tag", tag}};
  auto path = text_at(shown, {"Path"});
  // Below its own directory: the default, which has the id in it.
  if (!path.empty() && !path.starts_with(text_at(a.inspect, {"StaticDir"}))) log["path"] = path;
  return log;
}

Json networks(const Container& c, const PodmanAnswers& a) {
  Json all = Json::object();
  const Json& shown = at(a.inspect, {"NetworkSettings", "Networks"});
  if (c.network_mode != "bridge" || !shown.is_object()) return all;
  auto hostname = text_at(a.inspect, {"Config", "Hostname"});
  for (const auto& [name, network] : shown.items()) {
    Json one = at(a.generated, {"Networks", name});
    if (!one.is_object()) one = Json::object();
    Json addresses = Json::array();
    for (const auto& address : c.addresses) {
      if (address.network != name) continue;
      addresses.push_back(address.ip);
      one["static_mac"] = address.mac;
      one["interface_name"] = address.interface;
    }
    if (!addresses.empty()) one["static_ips"] = addresses;
    Json aliases = Json::array();
    for (const auto& alias : texts_at(network, {"Aliases"}))
      if (alias != c.id.substr(0, 12) && alias != hostname) aliases.push_back(alias);  // Podman adds both again
    one["aliases"] = aliases;
    all[name] = one;
  }
  return all;
}

Json port_mappings(const Container& c, const PodmanAnswers& a) {
  if (const Json& exact = at(a.generated, {"portmappings"}); exact.is_array()) return exact;
  Json list = Json::array();
  for (const auto& p : c.host_ports)
    list.push_back({{"host_ip", p.host_ip},
                    {"host_port", p.host_port},
                    {"container_port", p.container_port},
                    {"protocol", p.protocol}});
  return list;
}

Json exposed_ports(const PodmanAnswers& a) {
  Json exposed = Json::object();
  const Json& shown = at(a.inspect, {"Config", "ExposedPorts"});
  const Json& published = at(a.inspect, {"HostConfig", "PortBindings"});
  if (!shown.is_object()) return exposed;
  for (const auto& [port, unused] : shown.items()) {
    if (published.is_object() && published.contains(port)) continue;
    auto slash = port.find('/');
    auto& protocols = exposed[port.substr(0, slash)];
    auto protocol = slash == std::string::npos ? "tcp" : port.substr(slash + 1);
    protocols = protocols.is_string() ? protocols.get<std::string>() + "," + protocol : protocol;
  }
  return exposed;
}

Json namespace_mode(const std::string& mode) {
  if (mode.empty()) return {{"nsmode", "default"}};
  auto colon = mode.find(':');
  if (colon == std::string::npos) return {{"nsmode", mode}};
  auto kind = mode.substr(0, colon);
  return {{"nsmode", kind == "ns" ? "path" : kind}, {"value", mode.substr(colon + 1)}};
}

std::pair<Json, Json> masked_paths(const PodmanAnswers& a) {
  constexpr std::string_view kPodmansOwn[] = {"/proc/acpi",
                                              "/proc/kcore",
                                              "/proc/keys",
                                              "/proc/latency_stats",
                                              "/proc/sched_debug",
                                              "/proc/scsi",
                                              "/proc/timer_list",
                                              "/proc/timer_stats",
                                              "/sys/firmware",
                                              "/sys/fs/selinux",
                                              "/proc/asound",
                                              "/proc/bus",
                                              "/proc/fs",
                                              "/proc/irq",
                                              "/proc/sys",
                                              "/proc/sysrq-trigger",
                                              "/sys/devices/virtual/powercap"};
  Json mask = Json::array();
  Json unmask = Json::array();
  if (!at(a.oci, {"linux"}).is_object() || bool_at(a.inspect, {"HostConfig", "Privileged"})) return {mask, unmask};
  auto masked = texts_at(a.oci, {"linux", "maskedPaths"});
  auto readonly = texts_at(a.oci, {"linux", "readonlyPaths"});
  std::set<std::string> closed(masked.begin(), masked.end());
  closed.insert(readonly.begin(), readonly.end());
  if (closed.empty()) return {mask, Json::array({"ALL"})};
  std::set<std::string> own(std::begin(kPodmansOwn), std::end(kPodmansOwn));
  for (const auto& path : std::set<std::string>(masked.begin(), masked.end()))
    if (!own.contains(path)) mask.push_back(path);
  for (const auto& path : own)
    if (!closed.contains(path)) unmask.push_back(path);
  return {mask, unmask};
}

std::string seccomp_profile(const PodmanAnswers& a) {
  if (auto named = text_at(a.inspect, {"Config", "Annotations", "io.podman.annotations.seccomp"}); !named.empty())
    return named;
  bool filtered = at(a.oci, {"linux", "seccomp"}).is_object();
  bool known = at(a.oci, {"linux"}).is_object() && !bool_at(a.inspect, {"HostConfig", "Privileged"});
  return known && !filtered ? "unconfined" : "";
}

std::string init_program(const PodmanAnswers& a) {
  if (!bool_at(a.inspect, {"HostConfig", "Init"})) return {};
  const Json* m = mount_at(a.oci, "/run/podman-init");
  return m != nullptr ? text_at(*m, {"source"}) : std::string();
}

bool has_read_write_tmpfs(const PodmanAnswers& a) {
  if (!bool_at(a.inspect, {"HostConfig", "ReadonlyRootfs"})) return false;
  if (!at(a.oci, {"mounts"}).is_array()) return true;  // Podman's default
  const Json* m = mount_at(a.oci, "/var/tmp");
  return m != nullptr && text_at(*m, {"type"}) == "tmpfs";
}

Json resource_limits(const PodmanAnswers& a) {
  Json limits = at(a.generated, {"resource_limits"});
  if (!limits.is_object()) limits = at(a.oci, {"linux", "resources"});
  if (!limits.is_object()) return nullptr;
  limits.erase("devices");  // see device_rules(): sent as a whole they would pile up with every move
  for (auto it = limits.begin(); it != limits.end();) it = it->empty() ? limits.erase(it) : std::next(it);
  return limits;
}

std::vector<Conflict> unmovable_parts(const Container& c, const PodmanAnswers& a) {
  std::vector<Conflict> rows;
  auto add = [&rows](std::string check, std::string found, std::string remedy) {
    rows.push_back({std::move(check), std::move(found), std::move(remedy)});
  };
  const Json& host = at(a.inspect, {"HostConfig"});
  if (c.rootfs_kind != "overlay")
    add("storage-driver", fmt::format("the container's root is of kind \"{}\"", c.rootfs_kind),
        "only containers on the overlay storage driver of Podman can move");
  if (!c.pod.empty()) add("pod", fmt::format("it is part of pod {}", c.pod.substr(0, 12)), "pods can not move yet");
  for (const auto& id : texts_at(a.inspect, {"Dependencies"}))
    add("dependency", fmt::format("it depends on container {}", id.substr(0, 12)),
        "create it without --requires and without another container's namespaces");
  for (auto [key, what] : {std::pair{"NetworkMode", "network"}, {"PidMode", "pid"}, {"IpcMode", "ipc"}}) {
    auto mode = text_at(host, {key});
    if (mode.starts_with("container:") || mode.starts_with("ns:") || mode.starts_with("slirp4netns") || mode == "pasta")
      add("namespace", fmt::format("its {} namespace is \"{}\"", what, mode), "give it a namespace of its own");
  }
  if (text_at(host, {"PidMode"}) == "host")
    add("namespace", "it runs in the host's pid namespace, where its pids may be taken",
        "create it without --pid host");
  if (!text_at(host, {"UsernsMode"}).empty())
    add("namespace", "it runs in a user namespace", "create it without --userns, --uidmap, --gidmap");
  for (const auto& m : c.mounts)
    if (m.type != "tmpfs" && !is_volume(m))
      add("mounts", fmt::format("{} {} on {}", m.type, m.source, m.destination),
          "mounts of images cannot move: give it a volume, or build what it needs into its image");
  for (const auto& v : a.volumes)
    if (text_at(v, {"Driver"}) != "local" || !at(v, {"Options"}).empty())
      add("volumes",
          fmt::format("volume {} is of driver \"{}\" with options of its own", text_at(v, {"Name"}),
                      text_at(v, {"Driver"})),
          "only volumes without options can move yet (podman volume create NAME)");
  if (auto unit = text_at(a.inspect, {"Config", "Labels", "PODMAN_SYSTEMD_UNIT"}); !unit.empty())
    add("systemd-unit", fmt::format("systemd's unit {} runs it, and would start a second copy", unit),
        fmt::format("systemctl disable {}, and start the container with podman start", unit));
  if (auto driver = text_at(host, {"LogConfig", "Type"}); driver.starts_with("passthrough"))
    add("log-driver", fmt::format("log driver {} is tied to a terminal or unit of this host", driver),
        "create it with --log-driver k8s-file or journald");
  return rows;
}

int signal_number(const std::string& name) {
  std::string_view bare = name;
  if (bare.starts_with("SIG")) bare.remove_prefix(3);
  if (bare.starts_with("RTMIN")) {
    auto offset =
        bare == "RTMIN" ? Result<uint64_t>(0) : parse_u64(bare.substr(std::min<size_t>(6, bare.size())), name);
    // The C library keeps two for itself; the engine counts from the kernel's 34 too.
    return offset && *offset <= 30 ? static_cast<int>(34 + *offset) : 0;
  }
  for (int n = 1; n < 32; ++n)
    if (const char* known = sigabbrev_np(n); known != nullptr && bare == known) return n;
  auto number = parse_u64(bare, name);
  return number && *number <= 64 ? static_cast<int>(*number) : 0;
}

int64_t parse_human_size(const std::string& text) {
  constexpr std::string_view kPowers = "BkMGTPEZY";
  char* end = nullptr;
  double value = std::strtod(text.c_str(), &end);
  std::string_view unit = trim(end);
  if (unit.empty() || !(value > 0)) return 0;
  auto power = kPowers.find(unit[0] == 'K' ? 'k' : unit[0]);
  double bytes = value * std::pow(1000.0, power == std::string_view::npos ? 0.0 : static_cast<double>(power));
  return bytes < 9e18 ? static_cast<int64_t>(std::llround(bytes)) : 0;
}

}  // namespace transship::engine
