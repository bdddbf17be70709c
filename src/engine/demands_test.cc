// What a create request and a config.json ask of the host, field by field: those of honest sources, and every way that
// is known to get more with one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/bundle_demands.h"
#include "engine/podman_demands.h"
#include "sys/file.h"

namespace transship::engine {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

Json recorded(const std::string& name) {
  auto text = sys::read_file(std::string(TS_SOURCE_DIR) + "/src/engine/testdata/" + name);
  auto json = text ? parse_json(*text, name) : Result<Json>(std::unexpected(std::move(text).error()));
  EXPECT_TRUE(json) << name;
  return json ? *json : Json();
}

// "allow.devices /dev/sda", or a sentence of what no policy allows.
std::vector<std::string> texts(const Demands& demands) {
  auto all = demands.never;
  for (const auto& d : demands.list) all.push_back(fmt::format("{} {}", d.key, d.value));
  return all;
}

class PodmanDemands : public ::testing::Test {
 protected:
  PodmanDemands() {
    PodmanAnswers a;
    a.inspect = recorded("running-inspect.json");
    a.oci = recorded("running-oci.json");
    a.image = recorded("image.json");
    a.networks = {recorded("net1.json")};
    wanted = *container_from(a);
    spec = make_spec(wanted, a);
    // It was made with --security-opt seccomp=unconfined, --security-opt unmask and a secret.
    spec.create.erase("seccomp_profile_path");
    spec.create.erase("unmask");
    spec.create.erase("secret_env");
    spec.create.erase("secrets");
  }
  Demands demands() { return podman_demands(wanted, spec, host); }
  // The same with another value in one place.
  std::vector<std::string> with(const std::string& field, const Json& value) {
    PodmanSpec changed = spec;
    changed.create[field] = value;
    return texts(podman_demands(wanted, changed, host));
  }
  Container wanted;
  PodmanSpec spec;
  HostSide host;
};

TEST_F(PodmanDemands, AnOrdinaryContainerAsksForNothingMuch) {
  host.ulimits = {{"nofile", 1'000'000}, {"nproc", 1'000'000}};
  auto d = demands();
  EXPECT_THAT(texts(d), ElementsAre("allow.networks net1", "allow.sysctls net.ipv4.ping_group_range"));
  EXPECT_THAT(d.ulimits, IsEmpty());
  EXPECT_EQ(d.oom_score_adj, 0);
}

TEST_F(PodmanDemands, AVolumeIsItsOwnUnlessItIsThereAlready) {
  Json volumes = Json::array({{{"Name", "data"}, {"Dest", "/d"}, {"Options", {"rw", "nocopy"}}}});
  wanted.mounts.push_back({.type = "volume", .source = "/v", .destination = "/d", .volume = "data"});
  auto& mount = wanted.mounts.back();
  EXPECT_THAT(with("volumes", volumes), Not(Contains(HasSubstr("volume"))));
  host.volumes = {"data"};
  EXPECT_THAT(with("volumes", volumes), Contains("allow.volumes data"));
  mount.copy_here = CopyHere::kSame;
  EXPECT_THAT(with("volumes", volumes), Not(Contains(HasSubstr("volume")))) << "it has left it here";
  mount.destination = "/elsewhere";
  EXPECT_THAT(with("volumes", volumes), Contains(HasSubstr("of which it did not speak before")));
}

TEST_F(PodmanDemands, ADirectoryThatItHasLeftHereNeedsNothing) {
  Json mounts = Json::array({{{"destination", "/d"}, {"type", "bind"}, {"source", "/srv/d"}}});
  wanted.mounts.push_back({.type = "bind", .source = "/srv/d", .destination = "/d", .volume = ""});
  host.left = look_at_host(wanted).left;
  EXPECT_THAT(with("mounts", mounts), Contains("allow.writable_mounts /srv/d"));
  wanted.mounts.back().copy_here = CopyHere::kStale;
  host.left = look_at_host(wanted).left;
  EXPECT_THAT(with("mounts", mounts), Not(Contains(HasSubstr("/srv/d"))));
  mounts[0]["source"] = "/srv";
  EXPECT_THAT(with("mounts", mounts), Contains("allow.writable_mounts /srv")) << "that directory and no other";
}

TEST_F(PodmanDemands, WhatItsFactsSayIsWhatItGets) {
  EXPECT_THAT(with("privileged", true), Contains(HasSubstr("something else about being privileged")));
  EXPECT_THAT(with("Networks", {{"net1", {{"static_ips", {"10.77.0.21"}}}}}),
              Contains(HasSubstr("an address that its facts do not have")));
  EXPECT_THAT(with("portmappings", Json::array({{{"host_port", 22}, {"container_port", 22}, {"protocol", "tcp"}}})),
              Contains(HasSubstr("a published port that its facts do not have: 22")));
  wanted.privileged = true;
  EXPECT_THAT(with("privileged", true), Contains("allow.privileged "));
}

TEST_F(PodmanDemands, EveryWayToMore) {
  struct Case {
    const char* field;
    Json value;
    const char* what;
  };
  auto mount = [](Json m) { return Json::array({std::move(m)}); };
  for (const auto& [field, value, what] : std::vector<Case>{
           {"cap_add", {"NET_ADMIN"}, "allow.capabilities NET_ADMIN"},
           {"cap_add", {"cap_sys_admin"}, "allow.capabilities SYS_ADMIN"},
           {"cap_add", {"all"}, "allow.capabilities ALL"},
           {"cap_add", "ALL", "not a list"},
           {"devices", mount({{"path", "/dev/sda:/dev/sda:rwm"}}), "allow.devices /dev/sda"},
           {"devices", mount({{"path", "/dev/../etc:/x"}}), "device \"/dev/../etc\""},
           {"device_cgroup_rule", mount({{"allow", true}, {"type", "b"}, {"access", "rwm"}}),
            "allow.device_rules b *:* rwm"},
           {"pidns", {{"nsmode", "host"}}, "allow.host_namespaces pid"},
           {"netns", {{"nsmode", "host"}}, "allow.host_namespaces network"},
           {"netns", {{"nsmode", "path"}, {"value", "/proc/1/ns/net"}}, "which is not its own"},
           {"netns", {{"nsmode", "pasta"}}, "which is not its own"},
           {"ipcns", {{"nsmode", "container"}, {"value", "db"}}, "which is not its own"},
           {"utsns", {{"nsmode", "host"}}, "allow.host_namespaces uts"},
           {"cgroupns", {{"nsmode", "host"}}, "allow.host_namespaces cgroup"},
           {"userns", {{"nsmode", "auto"}}, "has the field \"userns\""},
           {"idmappings", Json::object(), "has the field \"idmappings\""},
           {"mounts", mount({{"type", "bind"}, {"source", "/etc"}, {"destination", "/e"}}),
            "allow.writable_mounts /etc"},
           {"mounts", mount({{"type", "bind"}, {"source", "/etc"}, {"destination", "/e"}, {"options", {"ro"}}}),
            "allow.read_only_mounts /etc"},
           {"mounts", mount({{"type", "bind"}, {"source", "/srv/../etc"}, {"destination", "/e"}}),
            "not a plain absolute path"},
           {"mounts", mount({{"type", "bind"}, {"source", "etc"}, {"destination", "/e"}}), "not a plain absolute path"},
           {"mounts", mount({{"type", "tmpfs"}, {"destination", "/t"}, {"options", {"bind"}}}),
            "mount option \"bind\""},
           {"mounts", mount({{"type", "bind"}, {"source", "/s"}, {"destination", "/e"}, {"options", {"rshared"}}}),
            "mount option \"rshared\""},
           {"mounts", mount({{"type", "bind"}, {"source", "/s"}, {"destination", "/e"}, {"options", {"U"}}}),
            "mount option \"U\""},
           {"mounts", mount({{"type", "ext4"}, {"source", "/dev/sda"}, {"destination", "/d"}}), "type \"ext4\""},
           {"volumes", mount({{"Name", "data"}, {"Dest", "/d"}}), "volume \"data\", of which it did not speak before"},
           {"overlay_volumes", mount({{"source", "/etc"}, {"destination", "/e"}}), "overlay volumes"},
           {"image_volumes", mount({{"Source", "x"}, {"Destination", "/e"}}), "mounts of images"},
           {"image_volume_mode", "bind", "volumes that its image asks for"},
           {"secrets", mount({{"Source", "password"}, {"Target", "password"}}), "allow.secrets password"},
           {"secret_env", {{"PASSWORD", "password"}}, "allow.secrets password"},
           {"seccomp_profile_path", "unconfined", "allow.unconfined seccomp"},
           {"seccomp_profile_path", "/tmp/lax.json", "allow.seccomp_profiles /tmp/lax.json"},
           {"apparmor_profile", "unconfined", "allow.unconfined apparmor"},
           {"apparmor_profile", "lax", "allow.apparmor_profiles lax"},
           {"unmask", {"ALL"}, "allow.unmasked_paths ALL"},
           {"unmask", {"/proc/kcore:/sys/firmware"}, "allow.unmasked_paths /sys/firmware"},
           {"sysctl", {{"kernel.core_pattern", "|/bin/x"}}, "allow.sysctls kernel.core_pattern"},
           {"sysctl", {{"net/../kernel/x", "1"}}, "is no name of one"},
           {"annotations", {{"org.criu.config", "/x"}}, "allow.annotations org.criu.config"},
           {"annotations", {{"run.oci.handler", "wasm"}}, "allow.annotations run.oci.handler"},
           {"annotations",
            {{"io.podman.annotations.privileged", "TRUE"}},
            "allow.annotations io.podman.annotations.privileged"},
           {"annotations", {{"org.systemd.property.ExecStopPost", "x"}}, "allow.annotations org.systemd"},
           {"labels", {{"PODMAN_SYSTEMD_UNIT", "sshd.service"}}, "names a systemd unit"},
           {"log_configuration",
            {{"driver", "k8s-file"}, {"path", "/etc/cron.d/x"}},
            "allow.writable_mounts /etc/cron.d/x"},
           {"log_configuration", {{"driver", "passthrough"}}, "log driver \"passthrough\""},
           {"log_configuration", {{"driver", "k8s-file"}, {"options", {{"path", "/x"}}}}, "has the field \"path\""},
           {"healthLogDestination", "/etc", "allow.writable_mounts /etc"},
           {"base_hosts_file", "/etc/shadow", "allow.read_only_mounts /etc/shadow"},
           {"init_path", "/etc/shadow", "allow.read_only_mounts /etc/shadow"},
           {"timezone", "../../../etc/shadow", "time zone"},
           {"groups", {"keep-groups"}, "keep-groups"},
           {"cgroup_parent", "/system.slice", "allow.cgroup_parents /system.slice"},
           {"cgroup_parent", "/a/../..", "cgroup parent"},
           {"cgroups_mode", "disabled", "without a cgroup of its own"},
           {"rootfs_propagation", "shared", "would show on the host"},
           {"chroot_directories", {"/../x"}, "chroot directory"},
           {"network_options", {{"pasta", {"-T", "22"}}}, "network options"},
           {"restart_policy", "always", "restart policy"},
           {"resource_limits", {{"unified", {{"memory.max", "max"}}}}, "memory.max"},
           {"resource_limits", {{"rdma", {{"mlx", {{"hcaHandles", 1}}}}}}, "has the field \"rdma\""},
           {"Networks", {{"../x", Json::object()}}, "network \"../x\""},
           // Podman reads names of fields in any case.
           {"Privileged", true, "has the field \"Privileged\""},
           {"rootfs", "/", "has the field \"rootfs\""},
           {"oci_runtime", "/tmp/x", "has the field \"oci_runtime\""},
           {"hooks_dir", {"/tmp"}, "has the field \"hooks_dir\""},
           {"namespace", "x", "has the field \"namespace\""},
           {"pod", "x", "has the field \"pod\""},
           {"volumes_from", {"db"}, "has the field \"volumes_from\""},
           {"dependencyContainers", {"db"}, "has the field \"dependencyContainers\""},
           {"procfs_opts", {"hidepid=0"}, "has the field \"procfs_opts\""},
       })
    EXPECT_THAT(with(field, value), Contains(HasSubstr(what))) << field << " " << value.dump();
}

TEST_F(PodmanDemands, WhatIsLeftOutIsNotLeftToPodman) {
  for (const char* field : {"pidns", "ipcns", "utsns", "cgroupns", "netns", "privileged", "image_volume_mode"}) {
    PodmanSpec changed = spec;
    changed.create.erase(field);
    EXPECT_THAT(texts(podman_demands(wanted, changed, host)), Contains(HasSubstr(field)));
  }
}

TEST_F(PodmanDemands, LabelsMatterWhereThereIsSelinux) {
  EXPECT_THAT(with("selinux_opts", {"disable"}), Not(Contains(HasSubstr("label"))));
  host.selinux = true;
  EXPECT_THAT(with("selinux_opts", {"disable"}), Contains("allow.unconfined label"));
  EXPECT_THAT(with("label_nested", true), Contains("allow.unconfined label"));
}

TEST_F(PodmanDemands, LimitsAreRead) {
  spec.create["resource_limits"] = {
      {"memory", {{"limit", 1 << 20}}}, {"cpu", {{"quota", 150'000}}}, {"pids", {{"limit", 7}}}};
  spec.create["r_limits"] = Json::array({{{"type", "NOFILE"}, {"soft", 1}, {"hard", -1}}});
  spec.create["oom_score_adj"] = -7;
  auto d = demands();
  EXPECT_EQ(d.memory_bytes, 1U << 20);
  EXPECT_DOUBLE_EQ(d.cpus, 1.5);
  EXPECT_EQ(d.pids, 7U);
  EXPECT_EQ(d.ulimits["nofile"], UINT64_MAX);
  EXPECT_EQ(d.oom_score_adj, -7);
}

// Of 2 MiB each, and of anything at all.
TEST_F(PodmanDemands, OddValuesAreRefusedAndNotWaitedFor) {
  Json many = Json::array();
  for (int n = 0; n < 100'000; ++n) many.push_back(fmt::format("CAP_{}", n));
  EXPECT_THAT(with("cap_add", many), Contains(HasSubstr("at most 4096")));
  Json ports = Json::array();
  for (int n = 0; n < 1000; ++n) ports.push_back({{"host_port", 1}, {"range", 60'000}});
  EXPECT_THAT(with("portmappings", ports), Contains(HasSubstr("out of range")));
  for (const auto& field : {"mounts", "devices", "Networks", "sysctl", "annotations", "log_configuration", "secrets",
                            "secret_env", "netns", "r_limits", "resource_limits", "cap_add"})
    for (const auto& value : {Json(7), Json("x"), Json(true), Json::array({7}), Json::object({{"x", 7}})})
      (void)with(field, value);
}

// What is said of it is compared with each other, and fills a message.
TEST_F(PodmanDemands, MoreThanAnybodyReadsIsRefused) {
  std::string paths, protocols = "tcp";
  for (int n = 0; n < 100'000; ++n) paths += fmt::format("/proc/{}:", n);
  for (int n = 0; n < 100'000; ++n) protocols += ",tcp";
  auto found = with("unmask", {paths});
  EXPECT_LE(found.size(), DemandFinder::kMaxDemands + 1);
  EXPECT_THAT(found, Contains(HasSubstr("more than 1024 things")));
  for (uint16_t n = 0; n < 4096; ++n)
    wanted.host_ports.push_back({.host_ip = "", .host_port = n, .container_port = 6379, .protocol = "tcp"});
  EXPECT_THAT(with("portmappings", Json::array({{{"host_port", 1}, {"range", 4000}, {"protocol", protocols}}})),
              Contains(HasSubstr("has 100001 protocols")));
}

// A message takes no half characters.
TEST_F(PodmanDemands, NoCharacterIsCutInTwo) {
  for (size_t before : {198, 199, 200}) {
    auto name = "run.oci." + std::string(before - 8, 'x');
    spec.create["annotations"] = {{name + "\u00e9y", "v"}};
    auto all = demands().list;
    auto found = std::ranges::find(all, "allow.annotations", &Demand::key);
    ASSERT_NE(found, all.end());
    EXPECT_EQ(found->found, fmt::format("annotation {}{}", name, before == 198 ? "\u00e9…" : "…"));
  }
}

TEST(Registry, IsTheFirstWordOfAReference) {
  EXPECT_EQ(registry_of("registry.lab:5000/redis@sha256:0"), "registry.lab:5000");
  EXPECT_EQ(registry_of("localhost/redis:1"), "localhost");
  EXPECT_EQ(registry_of("redis"), "docker.io");
  EXPECT_EQ(registry_of("library/redis"), "docker.io");
  EXPECT_EQ(repository_of("registry.lab:5000/redis:lab"), "registry.lab:5000/redis");
  EXPECT_EQ(repository_of("registry.lab:5000/redis@sha256:0"), "registry.lab:5000/redis");
}

class BundleDemands : public ::testing::Test {
 protected:
  BundleDemands() {
    bundle.directory = "/srv/redis";
    bundle.config = recorded("runc-spec.json");
    bundle.files = {{"redis.conf", 0644, "x"}};
  }
  std::vector<std::string> demands() {
    return texts(bundle_demands(bundle, host, [](const std::string& path) { return path == "/run/netns/host"; }));
  }
  std::vector<std::string> with(const std::string& pointer, const Json& value) {
    auto before = bundle.config;
    bundle.config[Json::json_pointer(pointer)] = value;
    auto found = demands();
    bundle.config = before;
    return found;
  }
  Bundle bundle;
  HostSide host;
};

TEST_F(BundleDemands, TheOneThatRuncWritesHasNoFilter) {
  EXPECT_THAT(demands(), ElementsAre("allow.unconfined seccomp"));
}

TEST_F(BundleDemands, EveryWayToMore) {
  struct Case {
    const char* place;
    Json value;
    const char* what;
  };
  for (const auto& [place, value, what] : std::vector<Case>{
           {"/hooks", {{"prestart", Json::array({{{"path", "/bin/sh"}}})}}, "has the field \"hooks\""},
           {"/hooks", {{"createRuntime", Json::array()}}, "has the field \"hooks\""},
           {"/windows", Json::object(), "has the field \"windows\""},
           {"/vm", {{"hypervisor", {{"path", "/bin/sh"}}}}, "has the field \"vm\""},
           {"/process/capabilities/bounding", {"CAP_SYS_ADMIN"}, "allow.capabilities SYS_ADMIN"},
           {"/process/capabilities/ambient", {"CAP_SYS_PTRACE"}, "allow.capabilities SYS_PTRACE"},
           {"/process/apparmorProfile", "unconfined", "allow.unconfined apparmor"},
           {"/process/scheduler", {{"policy", "SCHED_FIFO"}}, "has the field \"scheduler\""},
           {"/process/ioPriority", {{"class", "IOPRIO_CLASS_RT"}}, "has the field \"ioPriority\""},
           {"/root/x", 1, "has the field \"x\""},
           {"/mounts/-", {{"destination", "/h"}, {"type", "bind"}, {"source", "/etc"}}, "allow.writable_mounts /etc"},
           {"/mounts/-",
            {{"destination", "/h"}, {"type", "none"}, {"source", "/etc"}, {"options", {"rbind", "ro"}}},
            "allow.read_only_mounts /etc"},
           {"/mounts/-", {{"destination", "/h"}, {"type", "bind"}, {"source", "../../../etc"}}, "a mount of"},
           {"/mounts/-",
            {{"destination", "/h"}, {"type", "bind"}, {"source", "/srv/redis/../../etc"}},
            "does not travel"},
           {"/mounts/-",
            {{"destination", "/h"}, {"type", "bind"}, {"source", "/srv/redis/rootfs/link"}},
            "does not travel"},
           {"/mounts/-", {{"destination", "/h"}, {"type", "bind"}, {"source", "rootfs/link"}}, "a mount of"},
           {"/mounts/-", {{"destination", "/h"}, {"type", "ext4"}, {"source", "/dev/sda"}}, "type \"ext4\""},
           {"/mounts/-", {{"destination", "/h"}, {"type", "overlay"}, {"options", {"lowerdir=/"}}}, "lowerdir"},
           {"/mounts/-", {{"destination", "/p"}, {"type", "proc"}}, "proc on /p instead of /proc"},
           {"/mounts/-", {{"destination", "/sys"}, {"type", "sysfs"}}, "allow.unmasked_paths /sys"},
           {"/mounts/-", {{"destination", "/t"}, {"type", "tmpfs"}, {"options", {"rshared"}}}, "rshared"},
           {"/mounts/-", {{"destination", "/t/../x"}, {"type", "tmpfs"}}, "no plain absolute path"},
           {"/annotations", {{"org.criu.config", "/x"}}, "allow.annotations org.criu.config"},
           {"/linux/namespaces", Json::array({{{"type", "pid"}}}), "the host's mount namespace"},
           {"/linux/namespaces", Json::array({{{"type", "mount"}}}), "allow.host_namespaces network"},
           {"/linux/namespaces/-", {{"type", "network"}, {"path", "/run/netns/host"}}, "allow.host_namespaces network"},
           {"/linux/namespaces/-", {{"type", "network"}, {"path", "/proc/1/ns/net"}}, "another container's network"},
           {"/linux/namespaces/-",
            {{"type", "network"}, {"path", "/run/netns/netns-1f"}},
            "another container's network"},
           {"/linux/namespaces/-", {{"type", "pid"}, {"path", "/proc/1/ns/pid"}}, "the pid namespace /proc/1/ns/pid"},
           {"/linux/namespaces/-", {{"type", "user"}}, "allow.user_namespaces "},
           {"/linux/uidMappings", Json::array({{{"hostID", 0}}}), "allow.user_namespaces "},
           {"/linux/devices", Json::array({{{"path", "/dev/x"}, {"type", "b"}, {"major", 8}, {"minor", 0}}}),
            "allow.device_rules b 8:0 rwm"},
           {"/linux/resources/devices/-", {{"allow", true}, {"access", "rwm"}}, "allow.device_rules  *:* rwm"},
           {"/linux/cgroupsPath", "/system.slice/sshd.service", "allow.cgroup_parents /system.slice/sshd.service"},
           {"/linux/cgroupsPath", "../..", "cgroup \"../..\""},
           {"/linux/sysctl", {{"kernel.core_pattern", "|/x"}}, "allow.sysctls kernel.core_pattern"},
           {"/linux/seccomp", {{"defaultAction", "SCMP_ACT_ALLOW"}}, "allow.seccomp_profiles own"},
           {"/linux/seccomp", {{"listenerPath", "/run/x"}}, "has the field \"listenerPath\""},
           {"/linux/maskedPaths", Json::array(), "allow.unmasked_paths /proc/kcore"},
           {"/linux/readonlyPaths", Json::array(), "allow.unmasked_paths /proc/sys"},
           {"/linux/rootfsPropagation", "rshared", "would show on the host"},
           {"/linux/intelRdt", Json::object(), "has the field \"intelRdt\""},
           {"/linux/netDevices", {{"eth0", Json::object()}}, "has the field \"netDevices\""},
           {"/linux/mountLabel", 7, "allow.unconfined seccomp"},
       })
    EXPECT_THAT(with(place, value), Contains(HasSubstr(what))) << place << " " << value.dump();
}

TEST_F(BundleDemands, ItsOwnFilesAndNetworkAreFine) {
  EXPECT_THAT(with("/mounts/-", {{"destination", "/c"}, {"type", "bind"}, {"source", "/srv/redis/redis.conf"}}),
              ElementsAre("allow.unconfined seccomp"));
  EXPECT_THAT(with("/mounts/-", {{"destination", "/c"}, {"type", "bind"}, {"source", "redis.conf"}}),
              ElementsAre("allow.unconfined seccomp"));
  bundle.config["linux"]["namespaces"][1]["path"] = "/run/netns/redis";
  EXPECT_THAT(with("/linux/cgroupsPath", "/redis"),
              ElementsAre("allow.network_namespaces /run/netns/redis", "allow.unconfined seccomp"));
}

TEST(Paths, StraightOnes) {
  for (const char* good : {"/", "/a", "/a/b.c", "/a..b"}) EXPECT_TRUE(is_straight_path(good)) << good;
  for (const char* bad : {"", "a", "/a/", "//a", "/a/../b", "/.", "/.."}) EXPECT_FALSE(is_straight_path(bad)) << bad;
}

}  // namespace
}  // namespace transship::engine
