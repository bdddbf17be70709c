// What Podman answers, what is made of it for another host, and what that host makes of a peer's.
#include "engine/podman_conflicts.h"
#include "engine/podman_container.h"
#include "engine/podman_demands.h"
#include "engine/podman_spec.h"
#include "engine/podman_spec_parts.h"
#include "fuzz/demands.h"
#include "fuzz/input.h"
#include "fuzz/target.h"

namespace transship::fuzz {
namespace {

using namespace engine;

Json json(std::string_view bytes) { return parse_json(bytes, "podman").value_or(Json()); }

// One document with an answer under each name.
PodmanAnswers answers_in(const Json& all) {
  PodmanAnswers a{.inspect = at(all, {"inspect"}),
                  .image = at(all, {"image"}),
                  .oci = at(all, {"oci"}),
                  .generated = at(all, {"generated"}),
                  .networks = {}};
  const Json& networks = at(all, {"networks"});
  for (const auto& n : networks.is_array() ? networks : Json::array()) a.networks.push_back(n);
  return a;
}

PodmanHost host_in(const Json& all) {
  PodmanHost host{.info = at(all, {"info"}),
                  .containers = at(all, {"containers"}),
                  .networks = {},
                  .fixed = fixed_addresses(at(all, {"generated"})),
                  .listeners = {{.protocol = "tcp", .ip = "", .port = 80}},
                  .secrets = texts_at(all, {"secrets"}),
                  .missing_paths = {}};
  const Json& networks = at(all, {"networks"});
  for (const auto& n : networks.is_array() ? networks : Json::array()) host.networks.push_back(n);
  return host;
}

void spec_of_a_peer(const std::string& text, const Container& wanted, const PodmanHost& host) {
  auto spec = read_spec(text);
  if (!spec) return;
  auto again = read_spec(write_spec(*spec));
  TS_CHECK(again && again->create == spec->create && again->blocks.size() == spec->blocks.size());
  check_demands(podman_demands(wanted, *spec, {}), "podman");
  (void)find_conflicts(wanted, *spec, host);
  forget_addresses(*spec);
}

void run(std::string_view bytes) {
  Input in(bytes);
  bool peers = in.flag();
  auto all = json(in.rest());
  auto host = host_in(all);
  auto answers = answers_in(all);
  (void)summaries_from(host.containers);
  (void)addresses_of(answers.inspect);
  if (peers) {
    Container wanted{.name = "redis", .addresses = {{.network = "podman", .ip = "10.88.0.3", .prefix = 16}}};
    wanted.host_ports = {{.host_port = 80, .container_port = 80, .protocol = "tcp"}};
    return spec_of_a_peer(write_json(at(all, {"spec"})), wanted, host);
  }
  auto container = container_from(answers);
  if (!container) return;
  if (auto policy = parse_restart_policy(container->restart_policy); policy)
    (void)restart_policy_text(policy->name, static_cast<int64_t>(policy->retries & INT64_MAX));
  auto text = write_spec(make_spec(*container, answers));
  TS_CHECK(read_spec(text), "{}", read_spec(text).error().message());
  spec_of_a_peer(text, *container, host);
}

// A create request that asks for something in every field that a policy knows.
Json greedy() {
  return {{"name", "redis"},
          {"Networks", {{"podman", {{"static_ips", {"10.88.0.3"}}, {"aliases", {"db"}}}}, {"other", 1}}},
          {"annotations", {{"run.oci.handler", "wasm"}, {"a", "b"}}},
          {"apparmor_profile", "lax"},
          {"base_hosts_file", "/etc/shadow"},
          {"cap_add", {"NET_ADMIN", "cap_chown"}},
          {"cgroup_parent", "/system.slice"},
          {"cgroupns", {{"nsmode", "private"}}},
          {"device_cgroup_rule", {{{"allow", true}, {"type", "c"}, {"major", 10}, {"access", "rwm"}}}},
          {"devices", {{{"path", "/dev/fuse:/dev/fuse:rwm"}}}},
          {"groups", {"keep-groups"}},
          {"healthLogDestination", "/etc"},
          {"image_volume_mode", "ignore"},
          {"init_path", "/usr/bin/tini"},
          {"ipcns", {{"nsmode", "host"}}},
          {"log_configuration", {{"driver", "k8s-file"}, {"path", "/l"}, {"options", {{"tag", "t"}}}}},
          {"mounts", {{{"type", "bind"}, {"source", "/s"}, {"destination", "/d"}, {"options", {"ro", "size=1"}}}}},
          {"oom_score_adj", -5},
          {"pidns", {{"nsmode", "container"}, {"value", "x"}}},
          {"portmappings", {{{"host_port", 80}, {"container_port", 80}, {"range", 2}, {"protocol", "tcp,udp"}}}},
          {"privileged", true},
          {"r_limits", {{{"type", "RLIMIT_NOFILE"}, {"soft", 1}, {"hard", -1}}}},
          {"resource_limits",
           {{"memory", {{"limit", 1048576}}},
            {"cpu", {{"quota", 150000}, {"period", 100000}}},
            {"pids", {{"limit", 7}}},
            {"unified", {{"memory.max", "max"}}}}},
          {"restart_policy", "always"},
          {"seccomp_profile_path", "/p.json"},
          {"secret_env", {{"P", "s"}}},
          {"secrets", {{{"Source", "s"}, {"Target", "/t"}}}},
          {"selinux_opts", {"disable"}},
          {"sysctl", {{"net.core.somaxconn", "1"}, {"kernel/x", "1"}}},
          {"timezone", "../x"},
          {"unmask", {"/proc/kcore:/sys/firmware"}},
          {"volumes", {{{"Name", "v"}, {"Dest", "/v"}, {"Options", {"rshared"}}}}},
          {"hooks_dir", {"/tmp"}}};
}

std::vector<std::string> seeds() {
  auto id = std::string(64, 'a');
  Json inspect = {
      {"Id", id},
      {"Name", "redis"},
      {"State", {{"Status", "running"}, {"Pid", 77}}},
      {"OCIConfigPath", "/run/x/config.json"},
      {"ImageName", "docker.io/library/redis:7@sha256:b"},
      {"ImageDigest", "sha256:b"},
      {"GraphDriver", {{"Name", "overlay"}, {"Data", {{"UpperDir", "/u"}, {"MergedDir", "/m"}}}}},
      {"Config",
       {{"Env", {"A=1", "S=*******"}},
        {"Cmd", {"redis-server"}},
        {"Labels", {{"a", "b"}}},
        {"StopSignal", "SIGRTMIN+3"},
        {"Secrets", {{{"Name", "s"}, {"UID", 0}}}},
        {"ExposedPorts", {{"6379/tcp", Json::object()}, {"53", nullptr}}}}},
      {"HostConfig",
       {{"NetworkMode", "bridge"},
        {"RestartPolicy", {{"Name", "on-failure"}, {"MaximumRetryCount", 3}}},
        {"PortBindings", {{"6379/tcp", {{{"HostIp", "0.0.0.0"}, {"HostPort", "16379"}}}}}},
        {"LogConfig", {{"Type", "k8s-file"}, {"Size", "10MB"}}},
        {"Ulimits", {{{"Name", "RLIMIT_CORE"}, {"Soft", -1}, {"Hard", -1}}}},
        {"Tmpfs", {{"/t", "rw,size=1m"}}},
        {"Devices", {{{"PathOnHost", "/dev/fuse"}}}},
        {"PidMode", "ns:/x"}}},
      {"Mounts", {{{"Type", "bind"}, {"Source", "/s"}, {"Destination", "/d"}, {"RW", true}}}},
      {"NetworkSettings",
       {{"Networks", {{"podman", {{"IPAddress", "10.88.0.3"}, {"IPPrefixLen", 16}, {"Aliases", {"db"}}}}}}}}};
  Json network = {
      {"name", "podman"},
      {"subnets", {{{"subnet", "10.88.0.0/16"}, {"gateway", "10.88.0.1"}}}},
      {"containers",
       {{id,
         {{"name", "redis"},
          {"interfaces", {{"eth0", {{"subnets", {{{"ipnet", "10.88.0.3/16"}, {"gateway", "10.88.0.1"}}}}}}}}}}}}};
  Json oci = {{"process", {{"env", {"A=1", "T=secret"}}, {"oomScoreAdj", 1}}},
              {"mounts", {{{"destination", "/dev/shm"}, {"type", "bind"}}}},
              {"linux", {{"maskedPaths", {"/proc/kcore", "/own"}}, {"resources", {{"devices", {1}}, {"memory", 2}}}}}};
  Json all = {{"inspect", inspect},
              {"oci", oci},
              {"image", {{"Size", 5}, {"RepoDigests", {"docker.io/library/redis@sha256:c"}}}},
              {"generated", {{"Networks", {{"podman", {{"static_ips", {"10.88.0.3"}}}}}}}},
              {"networks", {network}},
              {"containers",
               {{{"Id", id},
                 {"Names", {"redis"}},
                 {"State", "running"},
                 {"Ports", {{{"host_ip", ""}, {"host_port", 80}, {"range", 2}, {"protocol", "tcp"}}}}}}},
              {"info", {{"store", {{"graphDriverName", "vfs"}, {"graphStatus", {{"Using metacopy", "true"}}}}}}}};
  auto first = Output().byte(0).raw(write_json(all)).bytes();
  PodmanSpec spec;
  spec.create = {{"name", "redis"}, {"Networks", {{"podman", {{"static_ips", {"10.88.0.3"}}}}, {"other", 1}}}};
  spec.secrets = {"s"};
  spec.blocks = {{"pod", "it is part of a pod", "no"}};
  for (const char* key : {"inspect", "oci", "image"}) all.erase(key);
  all["spec"] = json(write_spec(spec));
  auto second = Output().byte(1).raw(write_json(all)).bytes();
  spec.create = greedy();
  return {first, second, Output().byte(1).raw(write_json({{"spec", json(write_spec(spec))}})).bytes()};
}

const Registration kRegistration({"podman_json", run, seeds});

}  // namespace
}  // namespace transship::fuzz
