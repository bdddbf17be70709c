#include "engine/demand_finder.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>

namespace transship::engine {
namespace {

constexpr size_t kLongestShown = 200;

struct Ulimit {
  std::string_view name;
  int number;
};
constexpr std::array kUlimits = {
    Ulimit{"as", RLIMIT_AS},           Ulimit{"core", RLIMIT_CORE},         Ulimit{"cpu", RLIMIT_CPU},
    Ulimit{"data", RLIMIT_DATA},       Ulimit{"fsize", RLIMIT_FSIZE},       Ulimit{"locks", RLIMIT_LOCKS},
    Ulimit{"memlock", RLIMIT_MEMLOCK}, Ulimit{"msgqueue", RLIMIT_MSGQUEUE}, Ulimit{"nice", RLIMIT_NICE},
    Ulimit{"nofile", RLIMIT_NOFILE},   Ulimit{"nproc", RLIMIT_NPROC},       Ulimit{"rss", RLIMIT_RSS},
    Ulimit{"rtprio", RLIMIT_RTPRIO},   Ulimit{"rttime", RLIMIT_RTTIME},     Ulimit{"sigpending", RLIMIT_SIGPENDING},
    Ulimit{"stack", RLIMIT_STACK}};

// Beginnings of annotations that Podman, runc, crun or a hook of the host's may act upon. What Podman only shows again
// is let through.
constexpr std::array<std::string_view, 9> kActive = {"io.podman.",   "io.container", "io.kubernetes.",
                                                     "io.crun",      "run.oci.",     "org.criu.",
                                                     "org.systemd.", "module.wasm",  "com.github.containers."};
constexpr std::array<std::string_view, 4> kShown = {"io.podman.annotations.label", "io.podman.annotations.seccomp",
                                                    "io.podman.annotations.apparmor",
                                                    "io.podman.annotations.publish-all"};

std::string lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

}  // namespace

HostSide look_at_host(const Container& wanted) {
  HostSide host;
  for (const auto& m : wanted.mounts)
    if (m.type == "bind" && m.copy_here != CopyHere::kNone) host.left.push_back(m.source);
  host.selinux = ::access("/sys/fs/selinux/enforce", F_OK) == 0;
  for (const auto& u : kUlimits) {
    rlimit limit{};
    if (::getrlimit(static_cast<__rlimit_resource_t>(u.number), &limit) == 0)
      host.ulimits[std::string(u.name)] = limit.rlim_max;
  }
  return host;
}

bool is_straight_path(std::string_view path) {
  if (!path.starts_with('/') || path.contains('\0')) return false;
  path.remove_prefix(1);
  if (path.empty()) return true;
  auto parts = split(path, '/');
  return std::ranges::none_of(parts, [](const auto& p) { return p.empty() || p == "." || p == ".."; });
}

const std::vector<std::string_view>& guarded_paths() {
  static const std::vector<std::string_view> kPaths = {
      "/proc/acpi",    "/proc/bus",         "/proc/fs",           "/proc/irq",           "/proc/kcore",
      "/proc/keys",    "/proc/scsi",        "/proc/sys",          "/proc/sysrq-trigger", "/proc/timer_list",
      "/sys/firmware", "/proc/sched_debug", "/proc/latency_stats"};
  return kPaths;
}

std::string DemandFinder::printed(std::string_view text) {
  // No character is cut in two: a message takes whole ones only.
  size_t end = std::min(text.size(), kLongestShown);
  while (end > 0 && end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  std::string shown;
  for (unsigned char c : text.substr(0, end)) shown += c < 0x20 || c == 0x7f ? '?' : static_cast<char>(c);
  return end < text.size() ? shown + "…" : shown;
}

bool DemandFinder::has_room() {
  auto all = demands_.list.size() + demands_.never.size();
  if (all == kMaxDemands) demands_.never.push_back(fmt::format("more than {} things of the host", kMaxDemands));
  return all < kMaxDemands;
}

void DemandFinder::only(const Json& object, std::string_view where, std::initializer_list<std::string_view> known) {
  if (object.is_null()) return;
  if (!object.is_object()) return never("{} is not an object", where);
  for (const auto& [name, value] : object.items())
    if (std::ranges::find(known, name) == known.end() && !value.is_null())
      never("{} has the field \"{}\", which this version does not know", where, printed(name));
}

void DemandFinder::texts(const Json& list, std::string_view where,
                         const std::function<void(const std::string&)>& each) {
  elements(list, where, [&](const Json& element) {
    if (!element.is_string()) return never("{} has an element that is not text", where);
    each(element.get<std::string>());
  });
}

void DemandFinder::capability(std::string name, const std::vector<std::string_view>& usual) {
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  if (name.starts_with("CAP_")) name.erase(0, 4);
  if (std::ranges::contains(usual, std::string_view(name))) return;
  auto found = fmt::format("capability {}", printed(name));
  if (std::ranges::any_of(demands_.list, [&](const Demand& d) { return d.found == found; })) return;
  want("allow.capabilities", std::move(name), std::move(found));
}

void DemandFinder::host_path(const std::string& path, bool writable, std::string_view what) {
  if (!is_straight_path(path)) return never("{} \"{}\" is not a plain absolute path", what, printed(path));
  if (std::ranges::contains(host_.left, path)) return;
  want(writable ? "allow.writable_mounts" : "allow.read_only_mounts", path,
       fmt::format("{} {} ({})", what, printed(path), writable ? "writable" : "read-only"));
}

void DemandFinder::ulimit(std::string name, const Json& hard) {
  name = lower(std::move(name));
  if (name.starts_with("rlimit_")) name.erase(0, 7);
  if (std::ranges::find(kUlimits, name, &Ulimit::name) == kUlimits.end())
    return never("there is no ulimit \"{}\"", printed(name));
  if (!hard.is_number_integer()) return never("ulimit {} is not a number", name);
  // "unlimited" is written as the greatest number, or as -1.
  auto value = hard.is_number_unsigned() ? hard.get<uint64_t>() : static_cast<uint64_t>(hard.get<int64_t>());
  auto own = host_.ulimits.find(name);
  if (own == host_.ulimits.end() || value > own->second) demands_.ulimits[name] = value;
}

void DemandFinder::sysctls(const Json& map) {
  if (map.is_null()) return;
  if (!map.is_object()) return never("sysctls are not an object");
  for (const auto& [name, value] : map.items()) {
    // runc reads a slash as a dot, and a dot after the first slash as what it is.
    if (!is_plain_name(name)) return never("sysctl \"{}\" is no name of one", printed(name));
    want("allow.sysctls", name, fmt::format("sysctl {}", name));
  }
}

void DemandFinder::annotations(const Json& map) {
  if (map.is_null()) return;
  if (!map.is_object()) return never("annotations are not an object");
  for (const auto& [name, value] : map.items()) {
    bool active = std::ranges::any_of(kActive, [&](auto p) { return name.starts_with(p); });
    if (active && !std::ranges::contains(kShown, std::string_view(name)))
      want("allow.annotations", name, fmt::format("annotation {}", printed(name)));
  }
}

void DemandFinder::rule(const Json& rule) {
  only(rule, "a device rule", {"allow", "type", "major", "minor", "access"});
  if (!bool_at(rule, {"allow"})) return;
  auto number = [&rule](const char* key) {
    const Json& n = at(rule, {key});
    return n.is_number_integer() && n.get<int64_t>() >= 0 ? fmt::format("{}", n.get<int64_t>()) : std::string("*");
  };
  auto text =
      fmt::format("{} {}:{} {}", text_at(rule, {"type"}), number("major"), number("minor"), text_at(rule, {"access"}));
  want("allow.device_rules", text, fmt::format("device rule \"{}\"", printed(text)));
}

// Keys of cgroup v2 by their own names: those that raise a limit have a field of their own.
void DemandFinder::unified(const Json& unified) {
  if (unified.is_null()) return;
  if (!unified.is_object()) return never("resources.unified is not an object");
  for (const auto& [name, value] : unified.items()) {
    constexpr std::array<std::string_view, 7> kFine = {"memory.high", "memory.low", "memory.min", "memory.oom.group",
                                                       "cpu.weight",  "cpu.idle",   "io.weight"};
    if (!std::ranges::contains(kFine, std::string_view(name)))
      never("resources.unified has \"{}\", which this version does not carry", printed(name));
  }
}

void DemandFinder::resources(const Json& r) {
  only(r, "resources", {"memory", "cpu", "pids", "blockIO", "hugepageLimits", "unified", "devices"});
  only(at(r, {"memory"}), "resources.memory",
       {"limit", "reservation", "swap", "kernel", "kernelTCP", "swappiness", "disableOOMKiller", "useHierarchy",
        "checkBeforeUpdate"});
  only(at(r, {"cpu"}), "resources.cpu", {"shares", "quota", "burst", "period", "cpus", "mems", "idle"});
  only(at(r, {"pids"}), "resources.pids", {"limit"});
  unified(at(r, {"unified"}));
  demands_.memory_bytes = static_cast<uint64_t>(std::max<int64_t>(0, int_at(r, {"memory", "limit"})));
  demands_.pids = static_cast<uint64_t>(std::max<int64_t>(0, int_at(r, {"pids", "limit"})));
  constexpr int64_t kUsualPeriod = 100'000;
  auto quota = int_at(r, {"cpu", "quota"});
  auto period = int_at(r, {"cpu", "period"});
  if (quota > 0) demands_.cpus = static_cast<double>(quota) / static_cast<double>(period > 0 ? period : kUsualPeriod);
}

}  // namespace transship::engine
