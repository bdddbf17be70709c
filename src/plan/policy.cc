#include "plan/policy.h"

#include <algorithm>
#include <array>

#include "base/text.h"

namespace transship::plan {
namespace {

using List = PolicyKey::List;
using Number = PolicyKey::Number;
constexpr int64_t kMost = 1LL << 40;
constexpr uint64_t kMebibyte = 1ULL << 20;

const auto& keys() {
  static const std::array kKeys = {
      PolicyKey{"allow.engines", List{.field = &Policy::engines, .one_of = "podman|runc"},
                "engines whose containers may come"},
      PolicyKey{"allow.privileged", &Policy::privileged, "containers made with --privileged"},
      PolicyKey{"allow.capabilities", List{.field = &Policy::capabilities},
                "beyond the engine's own set: NET_ADMIN, SYS_PTRACE…, or ALL"},
      PolicyKey{"allow.devices", List{.field = &Policy::devices}, "paths of this host's devices, as /dev/fuse"},
      PolicyKey{"allow.device_rules", List{.field = &Policy::device_rules},
                "rules of the device cgroup, as \"c 10:200 rwm\""},
      PolicyKey{"allow.host_namespaces",
                List{.field = &Policy::host_namespaces, .one_of = "network|pid|ipc|uts|cgroup"},
                "namespaces of this host: network, pid, ipc, uts, cgroup"},
      PolicyKey{"allow.user_namespaces", &Policy::user_namespaces, "containers whose users are mapped to others"},
      PolicyKey{"allow.network_namespaces", List{.field = &Policy::network_namespaces},
                "files of network namespaces that a plain bundle may join; never this host's own, nor an engine's"},
      PolicyKey{"allow.networks", List{.field = &Policy::networks}, "the engine's networks, by name"},
      PolicyKey{"allow.read_only_mounts", List{.field = &Policy::read_only_mounts, .paths = true},
                "directories of this host of which anything may be mounted for reading"},
      PolicyKey{"allow.writable_mounts", List{.field = &Policy::writable_mounts, .paths = true},
                "the same, for reading and writing"},
      PolicyKey{"allow.volumes", List{.field = &Policy::volumes}, "the engine's volumes, by name"},
      PolicyKey{"allow.secrets", List{.field = &Policy::secrets}, "the engine's secrets, by name"},
      PolicyKey{"allow.unconfined", List{.field = &Policy::unconfined, .one_of = "seccomp|apparmor|label"},
                "what may be switched off: seccomp, apparmor, label (SELinux)"},
      PolicyKey{"allow.seccomp_profiles", List{.field = &Policy::seccomp_profiles},
                "profiles of this host, or (plain bundles) \"own\": the one in its config.json"},
      PolicyKey{"allow.apparmor_profiles", List{.field = &Policy::apparmor_profiles},
                "names of profiles other than the engine's own"},
      PolicyKey{"allow.unmasked_paths", List{.field = &Policy::unmasked_paths},
                "paths in /proc and /sys that engines hide or protect, or ALL"},
      PolicyKey{"allow.sysctls", List{.field = &Policy::sysctls}, "of its own namespaces"},
      PolicyKey{"allow.annotations", List{.field = &Policy::annotations},
                "annotations that an engine or a runtime acts upon"},
      PolicyKey{"allow.cgroup_parents", List{.field = &Policy::cgroup_parents}, "other than the engine's own"},
      PolicyKey{"allow.registries", List{.field = &Policy::registries}, "where its image may be pulled from"},
      PolicyKey{"allow.images_from_source", &Policy::images_from_source,
                "image layers that no registry serves, sent by the source"},
      PolicyKey{"allow.image_names", &Policy::image_names, "such an image may also get its name here, if that is free"},
      PolicyKey{"limits.ulimits", List{.field = &Policy::ulimits, .ulimits = true},
                "the highest hard limits; those not named: as high as this daemon's own"},
      PolicyKey{"limits.oom_score_adj", Number{&Policy::oom_score_adj, -1000, 1000},
                "the lowest: below 0 others die first when memory is short"},
      PolicyKey{"limits.memory_mib", Number{&Policy::memory_mib, 0, kMost},
                "it must have a memory limit of at most this; 0: need not have any"},
      PolicyKey{"limits.cpus", Number{&Policy::cpus, 0, 1 << 20},
                "it must have a CPU limit of at most this; 0: need not have any"},
      PolicyKey{"limits.pids", Number{&Policy::pids, 0, kMost},
                "it must have a limit of processes of at most this; 0: need not have any"},
      PolicyKey{"limits.reserved_mib", Number{&Policy::reserved_mib, 0, kMost},
                "memory and images that one move may reserve; 0: what is free"},
  };
  return kKeys;
}

bool below(std::string_view directory, std::string_view path) {
  while (directory.size() > 1 && directory.ends_with('/')) directory.remove_suffix(1);
  if (directory == "/") return path.starts_with('/');
  return path == directory || (path.starts_with(directory) && path[directory.size()] == '/');
}

bool allows(const Policy& policy, const PolicyKey& key, const std::string& value) {
  if (const auto* flag = std::get_if<bool Policy::*>(&key.kind)) return policy.**flag;
  const auto* list = std::get_if<List>(&key.kind);
  if (list == nullptr) return false;
  const auto& values = policy.*list->field;
  // Whoever may write may read.
  if (list->field == &Policy::read_only_mounts &&
      std::ranges::any_of(policy.writable_mounts, [&](const auto& d) { return below(d, value); }))
    return true;
  if (list->paths) return std::ranges::any_of(values, [&](const auto& d) { return below(d, value); });
  return std::ranges::any_of(values, [&](const auto& p) {
    return matches(p, value) ||
           (p == "ALL" && (list->field == &Policy::capabilities || list->field == &Policy::unmasked_paths));
  });
}

class Judge {
 public:
  explicit Judge(const Policy& policy) : policy_(policy) {}

  void demand(const Demand& d) {
    const auto* key = find_policy_key(d.key);
    if (key != nullptr && allows(policy_, *key, d.value)) return;
    bool flag = key != nullptr && std::holds_alternative<bool Policy::*>(key->kind);
    objections_.push_back({std::string(d.key), d.found, flag ? "true" : d.value});
  }

  void never(const std::string& sentence) { objections_.push_back({"", sentence, ""}); }

  // A limit that must be there when the policy has one.
  template <class T>
  void limit(std::string_view key, T most, T has, std::string_view what) {
    if (most == 0 || (has != 0 && has <= most)) return;
    objections_.push_back({std::string(key),
                           has == 0 ? fmt::format("no limit of its {}, and the most is {}", what, most)
                                    : fmt::format("its limit of {} is {}, and the most is {}", what, has, most),
                           has == 0 ? "0" : fmt::format("{}", has)});
  }

  void ulimit(const std::string& name, uint64_t hard) {
    for (const auto& one : policy_.ulimits) {
      if (!one.starts_with(name + "=")) continue;
      auto most = one.substr(name.size() + 1) == "unlimited"
                      ? Result<uint64_t>(UINT64_MAX)
                      : parse_u64(std::string_view(one).substr(name.size() + 1), name);
      if (most && hard <= *most) return;
    }
    auto value = hard == UINT64_MAX ? std::string("unlimited") : fmt::format("{}", hard);
    objections_.push_back({"limits.ulimits", fmt::format("ulimit {} of {}", name, value), name + "=" + value});
  }

  std::vector<Objection> take() { return std::move(objections_); }

 private:
  const Policy& policy_;
  std::vector<Objection> objections_;
};

}  // namespace

const Policy& PolicySet::of(const std::string& peer) const {
  auto it = peers.find(peer);
  return it == peers.end() ? everyone : it->second;
}

std::span<const PolicyKey> policy_keys() { return keys(); }

const PolicyKey* find_policy_key(std::string_view name) {
  auto it = std::ranges::find(keys(), name, &PolicyKey::name);
  return it == keys().end() ? nullptr : &*it;
}

bool matches(std::string_view pattern, std::string_view value) {
  if (!pattern.ends_with('*')) return pattern == value;
  return value.starts_with(pattern.substr(0, pattern.size() - 1));
}

std::vector<Objection> judge_policy(const Policy& policy, std::string_view engine, const Demands& demands) {
  Judge judge(policy);
  for (const auto& sentence : demands.never) judge.never(sentence);
  judge.demand({"allow.engines", std::string(engine), fmt::format("a container of {}", engine)});
  for (const auto& d : demands.list) judge.demand(d);
  for (const auto& [name, hard] : demands.ulimits) judge.ulimit(name, hard);
  if (demands.oom_score_adj < policy.oom_score_adj) {
    auto value = fmt::format("{}", demands.oom_score_adj);
    judge.demand({"limits.oom_score_adj", value, fmt::format("OOM score {}", value)});
  }
  auto most = static_cast<uint64_t>(policy.memory_mib);
  judge.limit<uint64_t>("limits.memory_mib", most, (demands.memory_bytes + kMebibyte - 1) / kMebibyte, "memory (MiB)");
  judge.limit<double>("limits.cpus", static_cast<double>(policy.cpus), demands.cpus, "CPUs");
  judge.limit<uint64_t>("limits.pids", static_cast<uint64_t>(policy.pids), demands.pids, "processes");
  return judge.take();
}

std::string objections_text(const std::vector<Objection>& objections) {
  std::vector<std::string> parts;
  for (const auto& o : objections) parts.push_back(o.found);
  return join(parts, "; ");
}

std::string objections_remedy(const std::vector<Objection>& objections, const std::string& file,
                              const std::string& node) {
  std::vector<std::string> parts;
  for (const auto& o : objections) {
    const auto* key = find_policy_key(o.key);
    if (key == nullptr) continue;
    auto text = std::holds_alternative<List>(key->kind) ? fmt::format("\"{}\" in {}", o.allow, o.key)
                                                        : fmt::format("{} = {}", o.key, o.allow);
    if (!std::ranges::contains(parts, text)) parts.push_back(std::move(text));
  }
  if (parts.empty()) return "make it again without; no policy allows it";
  return fmt::format("make it without, or allow it on {}: {} of {}", node, join(parts, ", "), file);
}

}  // namespace transship::plan
