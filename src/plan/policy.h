// What a container that arrives may have: the destination's word, whatever the source asks for. Pure.
//
//   file (node/policy_file) -> PolicySet -> policy of one peer -> judge_policy(what would be created) -> objections
//
// docs/policy.md lists every key with its default.
#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/demands.h"

namespace transship::plan {

// Immutable once loaded. The defaults are what any container gets from its engine, and nothing of the host's.
struct Policy {
  using List = std::vector<std::string>;
  List engines = {"podman", "runc"};
  bool privileged = false;
  List capabilities;
  List devices;
  List device_rules;
  List host_namespaces;
  bool user_namespaces = false;
  List network_namespaces = {"/run/netns/*", "/var/run/netns/*"};
  List networks = {"*"};
  List read_only_mounts;
  List writable_mounts;
  List volumes;
  List secrets;
  List unconfined;
  List seccomp_profiles;
  List apparmor_profiles;
  List unmasked_paths;
  List sysctls = {"fs.mqueue.*", "kernel.msg*", "kernel.sem", "kernel.shm*", "net.*"};
  List annotations;
  List cgroup_parents;
  List registries = {"*"};
  bool images_from_source = true;
  bool image_names = false;
  List ulimits = {"nofile=1048576", "nproc=4194304"};
  int64_t oom_score_adj = 0;
  int64_t memory_mib = 0;
  int64_t cpus = 0;
  int64_t pids = 0;
  int64_t reserved_mib = 0;
};

struct PolicySet {
  std::string file;  // where it is, or would be
  Policy everyone;
  std::map<std::string, Policy> peers;  // what is said for everyone, with the peer's own values in their place
  const Policy& of(const std::string& peer) const;
};

// One value of the file.
struct PolicyKey {
  struct Number {
    int64_t Policy::* field;
    int64_t min;
    int64_t max;
  };
  struct List {
    Policy::List Policy::* field;
    // What an element may be; empty: anything but empty text.
    std::string_view one_of = {};
    bool paths = false;    // absolute; allow themselves and what is below
    bool ulimits = false;  // "NAME=NUMBER"
  };
  std::string_view name;  // "allow.capabilities"
  std::variant<bool Policy::*, List, Number> kind;
  std::string_view doc;
};
std::span<const PolicyKey> policy_keys();
const PolicyKey* find_policy_key(std::string_view name);

// A text that allows `value`: the same, or with "*" at its end the beginning of it.
bool matches(std::string_view pattern, std::string_view value);

struct Objection {
  std::string key;    // empty: nothing in the file can allow it
  std::string found;  // "capability NET_ADMIN"
  std::string allow;  // what to add there: "NET_ADMIN"; or what to set: "true"
};
// In the order of `demands`; empty: it may come.
std::vector<Objection> judge_policy(const Policy& policy, std::string_view engine, const Demands& demands);

// One line each for a row or an error.
std::string objections_text(const std::vector<Objection>& objections);
std::string objections_remedy(const std::vector<Objection>& objections, const std::string& file,
                              const std::string& node);

}  // namespace transship::plan
