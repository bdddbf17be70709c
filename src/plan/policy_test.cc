#include "plan/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace transship::plan {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<std::string> keys_of(const std::vector<Objection>& objections) {
  std::vector<std::string> keys;
  for (const auto& o : objections) keys.push_back(o.key);
  return keys;
}

Demands asking(std::string_view key, std::string value) {
  Demands demands;
  demands.list.push_back({key, std::move(value), "something"});
  return demands;
}

TEST(Policy, WhatAsksForNothingMayCome) { EXPECT_THAT(judge_policy({}, "podman", {}), IsEmpty()); }

// Every key, at its default: what is of the host, or more than any container gets, is refused.
TEST(Policy, DefaultsGiveNothingOfTheHost) {
  struct Case {
    std::string_view key;
    const char* value;
    bool allowed;
  };
  for (const auto& [key, value, allowed] : std::vector<Case>{
           {"allow.privileged", "", false},
           {"allow.capabilities", "NET_ADMIN", false},
           {"allow.capabilities", "ALL", false},
           {"allow.devices", "/dev/sda", false},
           {"allow.device_rules", "c 10:200 rwm", false},
           {"allow.host_namespaces", "network", false},
           {"allow.host_namespaces", "pid", false},
           {"allow.user_namespaces", "", false},
           {"allow.network_namespaces", "/run/netns/redis", true},
           {"allow.network_namespaces", "/proc/1/ns/net", false},
           {"allow.networks", "podman", true},
           {"allow.read_only_mounts", "/etc", false},
           {"allow.writable_mounts", "/srv", false},
           {"allow.volumes", "data", false},
           {"allow.secrets", "password", false},
           {"allow.unconfined", "seccomp", false},
           {"allow.unconfined", "apparmor", false},
           {"allow.unconfined", "label", false},
           {"allow.seccomp_profiles", "/tmp/lax.json", false},
           {"allow.seccomp_profiles", "own", false},
           {"allow.apparmor_profiles", "lax", false},
           {"allow.unmasked_paths", "/proc/kcore", false},
           {"allow.sysctls", "net.core.somaxconn", true},
           {"allow.sysctls", "kernel.shmmax", true},
           {"allow.sysctls", "kernel.core_pattern", false},
           {"allow.sysctls", "vm.overcommit_memory", false},
           {"allow.annotations", "org.criu.config", false},
           {"allow.cgroup_parents", "/", false},
           {"allow.registries", "registry.example", true},
           {"allow.no_such_key", "x", false},
       })
    EXPECT_EQ(judge_policy({}, "podman", asking(key, value)).empty(), allowed) << key << " " << value;
  EXPECT_THAT(keys_of(judge_policy({}, "docker", {})), ElementsAre("allow.engines"));
}

TEST(Policy, ListsAllowWhatTheyName) {
  Policy policy;
  policy.capabilities = {"NET_ADMIN"};
  EXPECT_THAT(judge_policy(policy, "podman", asking("allow.capabilities", "NET_ADMIN")), IsEmpty());
  EXPECT_FALSE(judge_policy(policy, "podman", asking("allow.capabilities", "SYS_ADMIN")).empty());
  policy.capabilities = {"ALL"};
  EXPECT_THAT(judge_policy(policy, "podman", asking("allow.capabilities", "SYS_ADMIN")), IsEmpty());
  policy.devices = {"/dev/fuse", "/dev/dri/*"};
  EXPECT_THAT(judge_policy(policy, "podman", asking("allow.devices", "/dev/dri/card0")), IsEmpty());
  EXPECT_FALSE(judge_policy(policy, "podman", asking("allow.devices", "/dev/fuse2")).empty());
  policy.engines = {"runc"};
  EXPECT_FALSE(judge_policy(policy, "podman", {}).empty());
}

TEST(Policy, DirectoriesAllowWhatIsBelowThem) {
  Policy policy;
  policy.read_only_mounts = {"/srv/shared"};
  policy.writable_mounts = {"/srv/data/"};
  auto may = [&](std::string_view key, const char* path) {
    return judge_policy(policy, "podman", asking(key, path)).empty();
  };
  EXPECT_TRUE(may("allow.read_only_mounts", "/srv/shared"));
  EXPECT_TRUE(may("allow.read_only_mounts", "/srv/shared/a"));
  EXPECT_FALSE(may("allow.read_only_mounts", "/srv/shared2"));
  EXPECT_FALSE(may("allow.writable_mounts", "/srv/shared/a"));
  EXPECT_TRUE(may("allow.writable_mounts", "/srv/data/a"));
  EXPECT_TRUE(may("allow.read_only_mounts", "/srv/data/a"));  // whoever may write may read
  EXPECT_FALSE(may("allow.read_only_mounts", "/srv"));
}

TEST(Policy, LimitsMustBeThereAndLowEnough) {
  Policy policy;
  policy.memory_mib = 512;
  policy.cpus = 2;
  policy.pids = 100;
  EXPECT_THAT(keys_of(judge_policy(policy, "podman", {})),
              ElementsAre("limits.memory_mib", "limits.cpus", "limits.pids"));
  Demands demands;
  demands.memory_bytes = 512ULL << 20;
  demands.cpus = 1.5;
  demands.pids = 100;
  EXPECT_THAT(judge_policy(policy, "podman", demands), IsEmpty());
  demands.memory_bytes += 1;
  demands.cpus = 2.5;
  EXPECT_THAT(keys_of(judge_policy(policy, "podman", demands)), ElementsAre("limits.memory_mib", "limits.cpus"));
}

TEST(Policy, UlimitsAndOomScore) {
  Demands demands;
  demands.ulimits = {{"nofile", 1'048'576}};
  EXPECT_THAT(judge_policy({}, "podman", demands), IsEmpty());
  demands.ulimits = {{"nofile", 2'000'000}, {"rtprio", 99}};
  demands.oom_score_adj = -500;
  EXPECT_THAT(keys_of(judge_policy({}, "podman", demands)),
              ElementsAre("limits.ulimits", "limits.ulimits", "limits.oom_score_adj"));
  Policy policy;
  policy.ulimits = {"nofile=unlimited", "rtprio=99"};
  policy.oom_score_adj = -500;
  EXPECT_THAT(judge_policy(policy, "podman", demands), IsEmpty());
}

TEST(Policy, NothingAllowsWhatNobodyKnows) {
  Demands demands;
  demands.never = {"config.json has the field \"hooks\", which this version does not know"};
  Policy policy;
  policy.privileged = true;
  policy.capabilities = {"ALL"};
  auto objections = judge_policy(policy, "runc", demands);
  EXPECT_THAT(objections_text(objections), HasSubstr("hooks"));
  EXPECT_THAT(objections_remedy(objections, "/p.toml", "azure"), HasSubstr("no policy allows it"));
}

TEST(Policy, TheRemedyNamesKeyAndFile) {
  auto demands = asking("allow.capabilities", "NET_ADMIN");
  demands.list.push_back({"allow.privileged", "", "privileged"});
  auto objections = judge_policy({}, "podman", demands);
  EXPECT_EQ(objections_text(objections), "something; privileged");
  EXPECT_EQ(objections_remedy(objections, "/etc/transship/policy.toml", "azure"),
            "make it without, or allow it on azure: \"NET_ADMIN\" in allow.capabilities, allow.privileged = true of "
            "/etc/transship/policy.toml");
}

TEST(Policy, APeerHasItsOwnOrWhatEveryoneHas) {
  PolicySet set;
  set.peers["aws"].privileged = true;
  EXPECT_TRUE(set.of("aws").privileged);
  EXPECT_FALSE(set.of("azure").privileged);
}

}  // namespace
}  // namespace transship::plan
