#include "engine/bundle_demands.h"

#include <algorithm>
#include <array>
#include <filesystem>

namespace transship::engine {
namespace {

namespace fs = std::filesystem;

// What `runc spec` writes.
const std::vector<std::string_view> kUsualCapabilities = {"AUDIT_WRITE", "KILL", "NET_BIND_SERVICE"};

class ConfigReader {
 public:
  ConfigReader(const Bundle& bundle, DemandFinder& find, const std::function<bool(const std::string&)>& own_network)
      : bundle_(bundle), config_(bundle.config), find_(find), own_network_(own_network) {}

  void read() {
    find_.only(config_, "config.json",
               {"ociVersion", "process", "root", "hostname", "domainname", "mounts", "annotations", "linux"});
    find_.only(at(config_, {"root"}), "root", {"path", "readonly"});
    find_.annotations(at(config_, {"annotations"}));
    process(at(config_, {"process"}));
    find_.elements(at(config_, {"mounts"}), "mounts", [this](const Json& m) { mount(m); });
    linux_part(at(config_, {"linux"}));
  }

 private:
  void process(const Json& p) {
    find_.only(p, "process",
               {"terminal", "consoleSize", "user", "args", "env", "cwd", "capabilities", "rlimits", "noNewPrivileges",
                "apparmorProfile", "oomScoreAdj", "selinuxLabel"});
    find_.only(at(p, {"capabilities"}), "process.capabilities",
               {"bounding", "effective", "inheritable", "permitted", "ambient"});
    for (const char* set : {"bounding", "effective", "inheritable", "permitted", "ambient"})
      find_.texts(at(p, {"capabilities", set}), "process.capabilities",
                  [this](const std::string& name) { find_.capability(name, kUsualCapabilities); });
    find_.elements(at(p, {"rlimits"}), "process.rlimits", [this](const Json& u) {
      find_.only(u, "a ulimit", {"type", "soft", "hard"});
      find_.ulimit(text_at(u, {"type"}), at(u, {"hard"}));
    });
    if (auto name = text_at(p, {"apparmorProfile"}); name == "unconfined")
      find_.want("allow.unconfined", "apparmor", "no AppArmor profile");
    else if (!name.empty())
      find_.want("allow.apparmor_profiles", name, fmt::format("AppArmor profile {}", DemandFinder::printed(name)));
    bool labelled = !text_at(p, {"selinuxLabel"}).empty() || !text_at(config_, {"linux", "mountLabel"}).empty();
    if (find_.host().selinux)
      find_.want("allow.unconfined", "label", labelled ? "an SELinux label of its own choice" : "no SELinux label");
  }

  // Only what travels with it: a name below its root may lead anywhere.
  bool is_own_file(const std::string& source) const {
    if (source.contains("..")) return false;
    auto relative = fs::path(source).is_absolute() ? fs::path(source).lexically_relative(bundle_.directory).string()
                                                   : fs::path(source).lexically_normal().string();
    return std::ranges::contains(bundle_.files, relative, &BundleFile::path);
  }

  void mount(const Json& m) {
    find_.only(m, "a mount", {"destination", "type", "source", "options"});
    auto type = text_at(m, {"type"});
    auto destination = text_at(m, {"destination"});
    auto options = texts_at(m, {"options"});
    auto has = [&options](std::string_view o) { return std::ranges::contains(options, o); };
    if (!is_straight_path(destination))
      return find_.never("a mount on \"{}\", which is no plain absolute path", DemandFinder::printed(destination));
    for (const auto& option : options) mount_option(option);
    if (type == "bind" || has("bind") || has("rbind")) return bind(text_at(m, {"source"}), !has("ro"));
    file_system(type, destination, has("ro"));
  }

  void bind(const std::string& source, bool writable) {
    if (is_own_file(source)) return;
    if (!fs::path(source).is_absolute()) return find_.never("a mount of \"{}\"", DemandFinder::printed(source));
    // It would name something in the new bundle, where the source may have put a link.
    if (source.starts_with(bundle_.directory + "/"))
      return find_.never("a mount of {}, which does not travel with the bundle", DemandFinder::printed(source));
    find_.host_path(source, writable, "mount of");
  }

  void file_system(const std::string& type, const std::string& destination, bool read_only) {
    if (type == "tmpfs" || type == "mqueue" || type == "devpts") return;
    if (type != "proc" && type != "sysfs" && type != "cgroup" && type != "cgroup2")
      return find_.never("a mount of type \"{}\"", DemandFinder::printed(type));
    // Elsewhere, what is to be hidden in it would not be; and these may be written to.
    std::string usual = type == "proc" ? "/proc" : type == "sysfs" ? "/sys" : "/sys/fs/cgroup";
    if (destination != usual)
      find_.never("{} on {} instead of {}", type, DemandFinder::printed(destination), usual);
    else if (type != "proc" && !read_only)
      find_.want("allow.unmasked_paths", usual, fmt::format("{} writable", usual));
  }

  void mount_option(const std::string& option) {
    constexpr auto kNever = std::to_array<std::string_view>(
        {"shared", "rshared", "unbindable", "runbindable", "idmap", "ridmap", "remount", "copy-symlink"});
    if (std::ranges::contains(kNever, std::string_view(option)) || option.contains("dir=") || option.contains(','))
      find_.never("mount option \"{}\"", DemandFinder::printed(option));
  }

  void linux_part(const Json& l) {
    find_.only(l, "linux",
               {"namespaces", "uidMappings", "gidMappings", "devices", "resources", "cgroupsPath", "sysctl", "seccomp",
                "rootfsPropagation", "maskedPaths", "readonlyPaths", "mountLabel", "personality"});
    namespaces(at(l, {"namespaces"}));
    if (!at(l, {"uidMappings"}).empty() || !at(l, {"gidMappings"}).empty())
      find_.want("allow.user_namespaces", "", "a user namespace");
    find_.elements(at(l, {"devices"}), "linux.devices", [this](const Json& d) { device(d); });
    resources(at(l, {"resources"}));
    cgroup(text_at(l, {"cgroupsPath"}));
    find_.sysctls(at(l, {"sysctl"}));
    seccomp(at(l, {"seccomp"}));
    guards(l);
    auto propagation = text_at(l, {"rootfsPropagation"});
    if (propagation.contains("shared") || propagation.contains("unbindable"))
      find_.never("mounts of its root would show on the host (rootfsPropagation)");
  }

  void namespaces(const Json& list) {
    std::vector<std::string> own;
    find_.elements(list, "linux.namespaces", [&](const Json& n) {
      find_.only(n, "a namespace", {"type", "path"});
      auto type = text_at(n, {"type"});
      auto path = text_at(n, {"path"});
      if (std::ranges::contains(own, type)) find_.never("two {} namespaces", DemandFinder::printed(type));
      own.push_back(type);
      if (type == "user") return find_.want("allow.user_namespaces", "", "a user namespace");
      if (path.empty()) return;
      if (type == "network") return network(path);
      find_.never("the {} namespace {}", DemandFinder::printed(type), DemandFinder::printed(path));
    });
    if (!std::ranges::contains(own, "mount")) find_.never("the host's mount namespace");
    for (const char* name : {"network", "pid", "ipc", "uts", "cgroup"})
      if (!std::ranges::contains(own, name)) find_.host_namespace(name);
  }

  // Those of Podman's containers, and of others' plugins, lie in the same directory.
  void network(const std::string& path) {
    if (!is_straight_path(path)) return find_.never("network namespace \"{}\"", DemandFinder::printed(path));
    auto name = fs::path(path).filename().string();
    if (own_network_(path)) return find_.host_namespace("network");
    if (name.starts_with("netns-") || name.starts_with("cni-") || path.starts_with("/proc/"))
      return find_.never("{} is another container's network namespace", DemandFinder::printed(path));
    find_.want("allow.network_namespaces", path, fmt::format("network namespace {}", DemandFinder::printed(path)));
  }

  void device(const Json& d) {
    find_.only(d, "a device", {"path", "type", "major", "minor", "fileMode", "uid", "gid"});
    auto path = text_at(d, {"path"});
    // Its numbers say what it is: those are what the policy must know.
    auto rule = fmt::format("{} {}:{} rwm", text_at(d, {"type"}), int_at(d, {"major"}), int_at(d, {"minor"}));
    find_.want("allow.device_rules", rule, fmt::format("device {} ({})", DemandFinder::printed(path), rule));
  }

  void resources(const Json& r) {
    find_.resources(r);
    find_.elements(at(r, {"devices"}), "resources.devices", [this](const Json& rule) { find_.rule(rule); });
  }

  // "/NAME" below the root, as runc makes it by itself; "SLICE:PREFIX:NAME" for systemd.
  void cgroup(const std::string& path) {
    if (path.empty()) return;
    auto parts = split(path, ':');
    if (parts.size() == 3) {
      if (parts[0].empty() || parts[0] == "system.slice" || parts[0] == "machine.slice") return;
    } else if (is_straight_path(path) && path.find('/', 1) == std::string::npos) {
      return;
    }
    if (path.contains("..")) return find_.never("cgroup \"{}\"", DemandFinder::printed(path));
    find_.want("allow.cgroup_parents", path, fmt::format("cgroup {}", DemandFinder::printed(path)));
  }

  void seccomp(const Json& s) {
    if (s.is_null()) return find_.want("allow.unconfined", "seccomp", "no seccomp filter");
    // A listener is a program of the host that is handed the container's system calls.
    find_.only(s, "linux.seccomp", {"defaultAction", "defaultErrnoRet", "architectures", "flags", "syscalls"});
    find_.want("allow.seccomp_profiles", "own", "a seccomp profile of its own");
  }

  void guards(const Json& l) {
    auto closed = texts_at(l, {"maskedPaths"});
    auto readonly = texts_at(l, {"readonlyPaths"});
    closed.insert(closed.end(), readonly.begin(), readonly.end());
    for (auto path : guarded_paths())
      if (!std::ranges::contains(closed, path))
        find_.want("allow.unmasked_paths", std::string(path), fmt::format("{} not protected", path));
  }

  const Bundle& bundle_;
  const Json& config_;
  DemandFinder& find_;
  const std::function<bool(const std::string&)>& own_network_;
};

}  // namespace

Demands bundle_demands(const Bundle& bundle, const HostSide& host,
                       const std::function<bool(const std::string& path)>& own_network) {
  Demands demands;
  DemandFinder find(host, demands);
  ConfigReader(bundle, find, own_network).read();
  demands.oom_score_adj = int_at(bundle.config, {"process", "oomScoreAdj"});
  return demands;
}

}  // namespace transship::engine
