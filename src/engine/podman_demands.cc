#include "engine/podman_demands.h"

#include <algorithm>
#include <array>

namespace transship::engine {
namespace {

const std::vector<std::string_view> kUsualCapabilities = {"CHOWN",   "DAC_OVERRIDE",     "FOWNER",    "FSETID",
                                                          "KILL",    "NET_BIND_SERVICE", "SETFCAP",   "SETGID",
                                                          "SETPCAP", "SETUID",           "SYS_CHROOT"};
// Where distributions have the init that Podman puts into a container: its own default differs between hosts.
constexpr std::array<std::string_view, 5> kInits = {"/usr/libexec/podman/catatonit", "/usr/bin/catatonit",
                                                    "/usr/lib/podman/catatonit", "/usr/libexec/catatonit/catatonit",
                                                    "/usr/bin/tini"};
constexpr std::array<std::string_view, 2> kSeccompProfiles = {"/usr/share/containers/seccomp.json",
                                                              "/etc/containers/seccomp.json"};
// As many as facts may name.
constexpr int64_t kMaxPorts = 4096;
constexpr size_t kProtocols = 3;
constexpr std::array<std::string_view, 2> kCgroupParents = {"machine.slice", "/libpod_parent"};

struct Asked {
  const Container& wanted;
  const Json& create;
  DemandFinder& find;
};

using Check = void (*)(const Json&, const Asked&);

// What only the container itself notices, or nobody.
void harmless(const Json&, const Asked&) {}

void check_restart(const Json& v, const Asked& a) {
  if (v != "no") a.find.never("the restart policy is to be set before the container has come");
}

void check_labels(const Json& v, const Asked& a) {
  if (!text_at(v, {"PODMAN_SYSTEMD_UNIT"}).empty())
    a.find.never("its label PODMAN_SYSTEMD_UNIT names a systemd unit of this host");
}

void check_init(const Json& v, const Asked& a) {
  auto path = v.is_string() ? v.get<std::string>() : std::string();
  if (!std::ranges::contains(kInits, std::string_view(path))) a.find.host_path(path, false, "init program");
}

void check_health_log(const Json& v, const Asked& a) {
  if (v == "" || v == "local" || v == "events_logger") return;
  a.find.host_path(v.is_string() ? v.get<std::string>() : "", true, "health log");
}

void check_log(const Json& v, const Asked& a) {
  a.find.only(v, "log_configuration", {"driver", "path", "options", "size"});
  a.find.only(at(v, {"options"}), "log_configuration.options", {"tag"});
  constexpr std::array<std::string_view, 5> kDrivers = {"", "k8s-file", "json-file", "journald", "none"};
  if (auto driver = text_at(v, {"driver"}); !std::ranges::contains(kDrivers, std::string_view(driver)))
    a.find.never("log driver \"{}\"", DemandFinder::printed(driver));
  if (const Json& path = at(v, {"path"}); !path.is_null() && path != "")
    a.find.host_path(text_at(v, {"path"}), true, "log file");
}

void check_secrets(const Json& v, const Asked& a) {
  a.find.elements(v, "secrets", [&](const Json& s) {
    a.find.only(s, "a secret", {"Source", "Target", "UID", "GID", "Mode"});
    auto target = text_at(s, {"Target"});
    if (target.contains('/') && !is_straight_path(target)) a.find.never("a secret's place is no plain path");
    a.find.want("allow.secrets", text_at(s, {"Source"}),
                fmt::format("secret {}", DemandFinder::printed(text_at(s, {"Source"}))));
  });
}

void check_secret_env(const Json& v, const Asked& a) {
  if (!v.is_object()) return a.find.never("secret_env is not an object");
  for (const auto& [variable, secret] : v.items()) {
    auto name = secret.is_string() ? secret.get<std::string>() : std::string();
    a.find.want("allow.secrets", name, fmt::format("secret {}", DemandFinder::printed(name)));
  }
}

bool is_private_propagation(std::string_view word) {
  constexpr std::array<std::string_view, 4> kFine = {"private", "rprivate", "slave", "rslave"};
  return std::ranges::contains(kFine, word);
}

void check_mount_option(const std::string& option, const Asked& a, bool bind) {
  constexpr std::array<std::string_view, 16> kFine = {
      "ro",       "rw",      "nosuid",      "suid", "nodev", "dev",       "noexec",      "exec",
      "relatime", "noatime", "strictatime", "sync", "async", "tmpcopyup", "notmpcopyup", "nodiratime"};
  if (std::ranges::contains(kFine, std::string_view(option)) || is_private_propagation(option)) return;
  if (bind && (option == "bind" || option == "rbind")) return;
  auto key = option.substr(0, option.find('='));
  constexpr std::array<std::string_view, 6> kValues = {"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks"};
  if (!bind && key != option && std::ranges::contains(kValues, std::string_view(key))) return;
  a.find.never("mount option \"{}\"", DemandFinder::printed(option));
}

void check_mounts(const Json& v, const Asked& a) {
  a.find.elements(v, "mounts", [&](const Json& m) {
    a.find.only(m, "a mount", {"type", "source", "destination", "options"});
    auto type = text_at(m, {"type"});
    if (type != "tmpfs" && type != "bind") return a.find.never("a mount of type \"{}\"", DemandFinder::printed(type));
    auto options = texts_at(m, {"options"});
    for (const auto& option : options) check_mount_option(option, a, type == "bind");
    if (type == "bind") a.find.host_path(text_at(m, {"source"}), !std::ranges::contains(options, "ro"), "mount of");
  });
}

void check_volumes(const Json& v, const Asked& a) {
  a.find.elements(v, "volumes", [&](const Json& m) {
    a.find.only(m, "a volume", {"Name", "Dest", "Options", "IsAnonymous", "SubPath"});
    // Whether the image's files are put into an empty one.
    for (const auto& option : texts_at(m, {"Options"}))
      if (option != "copy" && option != "nocopy") check_mount_option(option, a, true);
    auto name = text_at(m, {"Name"});
    auto dest = text_at(m, {"Dest"});
    auto announced = std::ranges::find_if(a.wanted.mounts, [&](const Mount& known) {
      return known.type == "volume" && known.volume == name && known.destination == dest;
    });
    if (announced == a.wanted.mounts.end())
      return a.find.never("volume \"{}\", of which it did not speak before", DemandFinder::printed(name));
    // One that comes with it is its own, and so is what it has left here.
    if (announced->copy_here == CopyHere::kNone && std::ranges::contains(a.find.host().volumes, name))
      a.find.want("allow.volumes", name, fmt::format("volume {}", DemandFinder::printed(name)));
  });
}

void check_none(const Json& v, std::string_view what, const Asked& a) {
  if (!v.empty()) a.find.never("{} can not move", what);
}

void check_propagation(const Json& v, const Asked& a) {
  if (v != "" && !(v.is_string() && is_private_propagation(v.get<std::string>())))
    a.find.never("mounts of its root would show on the host (rootfs_propagation)");
}

void check_chroots(const Json& v, const Asked& a) {
  a.find.texts(v, "chroot_directories", [&](const std::string& path) {
    if (!is_straight_path(path)) a.find.never("chroot directory \"{}\"", DemandFinder::printed(path));
  });
}

void check_timezone(const Json& v, const Asked& a) {
  auto zone = v.is_string() ? v.get<std::string>() : "/";
  if (zone.starts_with('/') || zone.contains("..") || zone.contains('\0'))
    a.find.never("time zone \"{}\"", DemandFinder::printed(zone));
}

void check_groups(const Json& v, const Asked& a) {
  a.find.texts(v, "groups", [&](const std::string& group) {
    if (group == "keep-groups") a.find.never("groups of the process that makes it (keep-groups)");
  });
}

void check_privileged(const Json& v, const Asked& a) {
  if (!v.is_boolean() || v.get<bool>() != a.wanted.privileged)
    a.find.never("its request says something else about being privileged than its facts");
  if (v != false) a.find.want("allow.privileged", "", "privileged");
}

void check_capabilities(const Json& v, const Asked& a) {
  a.find.texts(v, "cap_add", [&](const std::string& name) { a.find.capability(name, kUsualCapabilities); });
}

// Where the host has no SELinux there is nothing to switch off, and Podman writes "disable" by itself.
void check_selinux(const Json& v, const Asked& a) {
  if (a.find.host().selinux && !v.empty() && v != false)
    a.find.want("allow.unconfined", "label", "an SELinux label of its own choice");
}

void check_apparmor(const Json& v, const Asked& a) {
  auto name = v.is_string() ? v.get<std::string>() : std::string("?");
  if (name == "unconfined")
    a.find.want("allow.unconfined", "apparmor", "no AppArmor profile");
  else if (!name.empty() && !name.starts_with("containers-default"))
    a.find.want("allow.apparmor_profiles", name, fmt::format("AppArmor profile {}", DemandFinder::printed(name)));
}

void check_seccomp(const Json& v, const Asked& a) {
  auto path = v.is_string() ? v.get<std::string>() : std::string("?");
  if (path == "unconfined") return a.find.want("allow.unconfined", "seccomp", "no seccomp filter");
  if (path.empty() || std::ranges::contains(kSeccompProfiles, std::string_view(path))) return;
  if (!is_straight_path(path)) return a.find.never("seccomp profile \"{}\"", DemandFinder::printed(path));
  a.find.want("allow.seccomp_profiles", path, fmt::format("seccomp profile {}", DemandFinder::printed(path)));
}

void check_unmask(const Json& v, const Asked& a) {
  a.find.texts(v, "unmask", [&](const std::string& paths) {
    for (const auto& path : split(paths, ':'))
      a.find.want("allow.unmasked_paths", path, fmt::format("{} not protected", DemandFinder::printed(path)));
  });
}

void check_devices(const Json& v, const Asked& a) {
  a.find.elements(v, "devices", [&](const Json& d) {
    a.find.only(d, "a device", {"path", "type", "major", "minor"});
    auto path = split(text_at(d, {"path"}), ':')[0];
    if (!is_straight_path(path)) return a.find.never("device \"{}\"", DemandFinder::printed(path));
    a.find.device(path);
  });
}

void check_rules(const Json& v, const Asked& a) {
  a.find.elements(v, "device_cgroup_rule", [&](const Json& rule) { a.find.rule(rule); });
}

void check_namespace(const Json& v, std::string_view name, std::initializer_list<std::string_view> own,
                     const Asked& a) {
  a.find.only(v, "a namespace", {"nsmode", "value"});
  auto mode = text_at(v, {"nsmode"});
  if (mode == "host") return a.find.host_namespace(std::string(name));
  if (std::ranges::find(own, mode) == own.end() || !text_at(v, {"value"}).empty())
    a.find.never("its {} namespace is \"{}\", which is not its own", name, DemandFinder::printed(mode));
}

void check_cgroup_parent(const Json& v, const Asked& a) {
  auto parent = v.is_string() ? v.get<std::string>() : std::string("?");
  if (parent.empty() || std::ranges::contains(kCgroupParents, std::string_view(parent))) return;
  if (parent.contains("..")) return a.find.never("cgroup parent \"{}\"", DemandFinder::printed(parent));
  a.find.want("allow.cgroup_parents", parent, fmt::format("cgroup parent {}", DemandFinder::printed(parent)));
}

// What was reserved, and checked to be free, is what it gets.
void check_networks(const Json& v, const Asked& a) {
  if (!v.is_object()) return a.find.never("Networks is not an object");
  for (const auto& [name, options] : v.items()) {
    a.find.only(options, "a network", {"static_ips", "static_mac", "interface_name", "aliases"});
    if (!is_plain_name(name)) return a.find.never("network \"{}\"", DemandFinder::printed(name));
    a.find.want("allow.networks", name, fmt::format("network {}", name));
    a.find.texts(at(options, {"static_ips"}), "static_ips", [&](const std::string& ip) {
      if (!std::ranges::contains(a.wanted.addresses, ip, &Address::ip))
        a.find.never("its request has an address that its facts do not have: {}", DemandFinder::printed(ip));
    });
  }
}

// Returns how many it are.
int64_t check_port(const Json& p, const Asked& a) {
  a.find.only(p, "a published port", {"host_ip", "host_port", "container_port", "range", "protocol"});
  auto first = int_at(p, {"host_port"});
  auto range = std::clamp<int64_t>(int_at(p, {"range"}), 1, kMaxPorts + 1);
  auto ip = text_at(p, {"host_ip"});
  if (ip == "0.0.0.0") ip.clear();
  if (first < 0 || first > 65535 || range > kMaxPorts) {
    a.find.never("a published port is out of range");
    return range;
  }
  if (first == 0) return range;  // any that is free
  auto names = text_at(p, {"protocol"});
  auto protocols = split(names.empty() ? "tcp" : names, ',');
  if (protocols.size() > kProtocols) {
    a.find.never("a published port has {} protocols", protocols.size());
    return range;
  }
  for (const auto& protocol : protocols) {
    for (int64_t n = first; n < first + range; ++n) {
      bool said = std::ranges::any_of(a.wanted.host_ports, [&](const HostPort& h) {
        return h.host_port == n && h.protocol == protocol && (h.host_ip == ip || h.host_ip.empty());
      });
      if (said) continue;
      a.find.never("its request has a published port that its facts do not have: {}", n);
      return range;
    }
  }
  return range;
}

void check_ports(const Json& v, const Asked& a) {
  int64_t total = 0;
  a.find.elements(v, "portmappings", [&](const Json& p) {
    if (total <= kMaxPorts) total += check_port(p, a);
  });
  if (total > kMaxPorts) a.find.never("it publishes more than {} ports", kMaxPorts);
}

void check_hosts_file(const Json& v, const Asked& a) {
  if (v == "" || v == "none" || v == "image") return;
  a.find.host_path(v.is_string() ? v.get<std::string>() : "", false, "file of host names");
}

void check_resources(const Json& v, const Asked& a) { a.find.resources(v); }

void check_ulimits(const Json& v, const Asked& a) {
  a.find.elements(v, "r_limits", [&](const Json& u) {
    a.find.only(u, "a ulimit", {"type", "soft", "hard"});
    a.find.ulimit(text_at(u, {"type"}), at(u, {"hard"}));
  });
}

struct Field {
  std::string_view name;
  Check check;
};

const std::vector<Field>& fields() {
  static const std::vector<Field> kFields = {
      {"restart_policy", check_restart},
      {"labels", check_labels},
      {"annotations", [](const Json& v, const Asked& a) { a.find.annotations(v); }},
      {"init_path", check_init},
      {"healthLogDestination", check_health_log},
      {"log_configuration", check_log},
      {"secrets", check_secrets},
      {"secret_env", check_secret_env},
      {"mounts", check_mounts},
      {"volumes", check_volumes},
      {"overlay_volumes", [](const Json& v, const Asked& a) { check_none(v, "overlay volumes", a); }},
      {"image_volumes", [](const Json& v, const Asked& a) { check_none(v, "mounts of images", a); }},
      {"network_options", [](const Json& v, const Asked& a) { check_none(v, "network options", a); }},
      {"image_volume_mode",
       [](const Json& v, const Asked& a) {
         if (v != "ignore") a.find.never("volumes that its image asks for");
       }},
      {"rootfs_propagation", check_propagation},
      {"chroot_directories", check_chroots},
      {"timezone", check_timezone},
      {"groups", check_groups},
      {"privileged", check_privileged},
      {"cap_add", check_capabilities},
      {"selinux_opts", check_selinux},
      {"label_nested", check_selinux},
      {"apparmor_profile", check_apparmor},
      {"seccomp_profile_path", check_seccomp},
      {"unmask", check_unmask},
      {"devices", check_devices},
      {"device_cgroup_rule", check_rules},
      {"pidns", [](const Json& v, const Asked& a) { check_namespace(v, "pid", {"private", "default"}, a); }},
      {"ipcns", [](const Json& v,
                   const Asked& a) { check_namespace(v, "ipc", {"private", "shareable", "none", "default"}, a); }},
      {"utsns", [](const Json& v, const Asked& a) { check_namespace(v, "uts", {"private", "default"}, a); }},
      {"cgroupns", [](const Json& v, const Asked& a) { check_namespace(v, "cgroup", {"private", "default"}, a); }},
      {"netns", [](const Json& v, const Asked& a) { check_namespace(v, "network", {"bridge", "none", "private"}, a); }},
      {"cgroup_parent", check_cgroup_parent},
      {"cgroups_mode",
       [](const Json& v, const Asked& a) { check_none(v, "a container without a cgroup of its own", a); }},
      {"Networks", check_networks},
      {"portmappings", check_ports},
      {"base_hosts_file", check_hosts_file},
      {"resource_limits", check_resources},
      {"r_limits", check_ulimits},
      {"oom_score_adj", harmless},  // see podman_demands()
      {"sysctl", [](const Json& v, const Asked& a) { a.find.sysctls(v); }},
  };
  return kFields;
}

constexpr auto kHarmless = std::to_array<std::string_view>({"name",
                                                            "entrypoint",
                                                            "command",
                                                            "env",
                                                            "unsetenvall",
                                                            "terminal",
                                                            "stdin",
                                                            "user",
                                                            "work_dir",
                                                            "umask",
                                                            "stop_signal",
                                                            "stop_timeout",
                                                            "timeout",
                                                            "systemd",
                                                            "sdnotifyMode",
                                                            "passwd_entry",
                                                            "group_entry",
                                                            "hostusers",
                                                            "init",
                                                            "healthconfig",
                                                            "startupHealthConfig",
                                                            "image",
                                                            "raw_image_name",
                                                            "health_check_on_failure_action",
                                                            "shm_size",
                                                            "shm_size_systemd",
                                                            "containerCreateCommand",
                                                            "remove",
                                                            "removeImage",
                                                            "read_only_filesystem",
                                                            "cap_drop",
                                                            "no_new_privileges",
                                                            "read_write_tmpfs",
                                                            "mask",
                                                            "personality",
                                                            "manage_password",
                                                            "hostname",
                                                            "expose",
                                                            "healthMaxLogCount",
                                                            "dns_server",
                                                            "dns_search",
                                                            "healthMaxLogSize",
                                                            "dns_option",
                                                            "hostadd",
                                                            "use_image_hosts",
                                                            "use_image_hostname"});

// Without it Podman would choose, and its choice is not what was judged.
void check_all_there(const Asked& a) {
  for (const char* name : {"pidns", "ipcns", "utsns", "cgroupns", "netns", "privileged", "image_volume_mode"})
    if (!a.create.contains(name)) a.find.never("its request says nothing of {}", name);
}

}  // namespace

std::string registry_of(std::string_view reference) {
  auto slash = reference.find('/');
  auto first = reference.substr(0, slash);
  if (slash == std::string_view::npos || (!first.contains('.') && !first.contains(':') && first != "localhost"))
    return "docker.io";
  return std::string(first);
}

std::string repository_of(std::string_view reference) {
  reference = reference.substr(0, reference.find('@'));
  auto slash = reference.rfind('/');
  auto colon = reference.rfind(':');
  if (colon != std::string_view::npos && (slash == std::string_view::npos || colon > slash))
    reference = reference.substr(0, colon);
  return std::string(reference);
}

Demands podman_demands(const Container& wanted, const PodmanSpec& spec, const HostSide& host) {
  Demands demands;
  DemandFinder find(host, demands);
  Asked asked{wanted, spec.create, find};
  check_all_there(asked);
  for (const auto& [name, value] : spec.create.items()) {
    if (std::ranges::contains(kHarmless, std::string_view(name))) continue;
    auto field = std::ranges::find(fields(), std::string_view(name), &Field::name);
    if (field == fields().end())
      find.never("its request has the field \"{}\", which this version does not know", DemandFinder::printed(name));
    else
      field->check(value, asked);
  }
  demands.oom_score_adj = int_at(spec.create, {"oom_score_adj"});
  return demands;
}

}  // namespace transship::engine
