#include "engine/podman_container.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/text.h"

namespace transship::engine {
namespace {

// "10.77.0.9/24"
void set_address(Address& a, const std::string& with_prefix) {
  auto slash = with_prefix.find('/');
  a.ip = with_prefix.substr(0, slash);
  if (slash == std::string::npos) return;
  if (auto prefix = parse_u64(std::string_view(with_prefix).substr(slash + 1), "prefix"); prefix && *prefix <= 128)
    a.prefix = static_cast<unsigned>(*prefix);
}

// The only answer with the interface's name and every address on it.
std::vector<Address> addresses_from(const PodmanAnswers& answers, const std::string& id) {
  std::vector<Address> addresses;
  for (const auto& network : answers.networks) {
    const Json& interfaces = at(network, {"containers", id, "interfaces"});
    for (const auto& [name, interface] : interfaces.items()) {
      const Json& subnets = at(interface, {"subnets"});
      for (const auto& subnet : subnets.is_array() ? subnets : Json::array()) {
        Address a;
        a.network = text_at(network, {"name"});
        a.interface = name;
        a.mac = text_at(interface, {"mac_address"});
        a.gateway = text_at(subnet, {"gateway"});
        set_address(a, text_at(subnet, {"ipnet"}));
        addresses.push_back(std::move(a));
      }
    }
  }
  return addresses;
}

// {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}
std::vector<HostPort> ports_from(const Json& bindings) {
  std::vector<HostPort> ports;
  if (!bindings.is_object()) return ports;
  for (const auto& [container_side, host_sides] : bindings.items()) {
    auto slash = container_side.find('/');
    auto container_port = parse_u64(container_side.substr(0, slash), "container port");
    if (!container_port || !host_sides.is_array()) continue;
    for (const auto& host : host_sides) {
      auto host_port = parse_u64(text_at(host, {"HostPort"}), "host port");
      if (!host_port || *host_port > 65535 || *container_port > 65535) continue;
      HostPort p;
      p.host_ip = text_at(host, {"HostIp"});
      if (p.host_ip == "0.0.0.0") p.host_ip.clear();
      p.host_port = static_cast<uint16_t>(*host_port);
      p.container_port = static_cast<uint16_t>(*container_port);
      p.protocol = slash == std::string::npos ? "tcp" : container_side.substr(slash + 1);
      ports.push_back(std::move(p));
    }
  }
  return ports;
}

std::vector<Mount> mounts_from(const Json& inspect) {
  std::vector<Mount> mounts;
  const Json& list = at(inspect, {"Mounts"});
  for (const auto& m : list.is_array() ? list : Json::array())
    mounts.push_back({text_at(m, {"Type"}), text_at(m, {"Source"}), text_at(m, {"Destination"}), text_at(m, {"Name"}),
                      bool_at(m, {"RW"})});
  const Json& tmpfs = at(inspect, {"HostConfig", "Tmpfs"});
  if (tmpfs.is_object())
    for (const auto& [destination, options] : tmpfs.items())
      mounts.push_back({"tmpfs", "tmpfs", destination, "", true});
  return mounts;
}

// Bind mounts that the user did not ask for are the engine's own.
std::vector<std::string> managed_from(const Json& oci, const std::vector<Mount>& mounts) {
  std::set<std::string> asked;
  for (const auto& m : mounts) asked.insert(m.destination);
  std::vector<std::string> managed;
  const Json& list = at(oci, {"mounts"});
  for (const auto& m : list.is_array() ? list : Json::array())
    if (auto d = text_at(m, {"destination"}); text_at(m, {"type"}) == "bind" && !asked.contains(d))
      managed.push_back(d);
  return managed;
}

void set_root(Container& c, const PodmanAnswers& answers) {
  const Json& driver = at(answers.inspect, {"GraphDriver"});
  c.rootfs_kind = text_at(driver, {"Name"});
  if (!text_at(answers.inspect, {"Rootfs"}).empty()) c.rootfs_kind = "rootfs";
  c.upper_dir = text_at(driver, {"Data", "UpperDir"});
  c.rootfs = text_at(driver, {"Data", "MergedDir"});
  if (c.rootfs.empty()) c.rootfs = text_at(answers.oci, {"root", "path"});
}

void set_image(Container& c, const PodmanAnswers& answers) {
  c.image = text_at(answers.inspect, {"ImageName"});
  c.image_id = text_at(answers.inspect, {"Image"});
  c.image_digest = text_at(answers.inspect, {"ImageDigest"});
  c.image_layers = texts_at(answers.image, {"RootFS", "Layers"});
  c.image_bytes = static_cast<uint64_t>(std::max<int64_t>(0, int_at(answers.image, {"Size"})));
}

}  // namespace

std::string restart_policy_text(const std::string& name, int64_t retries) {
  if (name.empty()) return "no";
  return retries > 0 ? fmt::format("{}:{}", name, retries) : name;
}

Result<RestartPolicy> parse_restart_policy(const std::string& text) {
  auto colon = text.find(':');
  RestartPolicy p;
  p.name = text.substr(0, colon);
  constexpr std::string_view kKnown[] = {"no", "always", "on-failure", "unless-stopped"};
  if (std::ranges::find(kKnown, p.name) == std::end(kKnown))
    return fail(Errc::kInvalidArgument, "\"{}\" is not a restart policy of Podman", text.substr(0, 64));
  if (colon != std::string::npos) {
    TS_TRY_ASSIGN(p.retries, parse_u64(std::string_view(text).substr(colon + 1), "retries of the restart policy"));
  }
  return p;
}

Result<Container> container_from(const PodmanAnswers& answers) {
  const Json& i = answers.inspect;
  Container c;
  c.engine = "podman";
  c.id = text_at(i, {"Id"});
  c.name = text_at(i, {"Name"});
  if (c.id.size() != 64 || c.name.empty())
    return fail(Errc::kPeerProtocol, "podman's inspect answer has no container id and name");
  c.state = text_at(i, {"State", "Status"});
  c.pid = static_cast<pid_t>(int_at(i, {"State", "Pid"}));
  if (auto config = text_at(i, {"OCIConfigPath"}); !config.empty())
    c.bundle = std::filesystem::path(config).parent_path();
  c.runtime = text_at(i, {"OCIRuntime"});
  set_root(c, answers);
  set_image(c, answers);
  c.addresses = addresses_from(answers, c.id);
  c.host_ports = ports_from(at(i, {"HostConfig", "PortBindings"}));
  c.mounts = mounts_from(i);
  c.managed_files = managed_from(answers.oci, c.mounts);
  c.network_mode = text_at(i, {"HostConfig", "NetworkMode"});
  c.restart_policy = restart_policy_text(text_at(i, {"HostConfig", "RestartPolicy", "Name"}),
                                         int_at(i, {"HostConfig", "RestartPolicy", "MaximumRetryCount"}));
  c.auto_remove = bool_at(i, {"HostConfig", "AutoRemove"});
  c.terminal = bool_at(i, {"Config", "Tty"});
  c.privileged = bool_at(i, {"HostConfig", "Privileged"});
  c.pod = text_at(i, {"Pod"});
  c.memory_limit = static_cast<uint64_t>(std::max<int64_t>(0, int_at(i, {"HostConfig", "Memory"})));
  c.cgroup_parent = text_at(i, {"HostConfig", "CgroupParent"});
  return c;
}

std::vector<Address> addresses_of(const Json& inspect) {
  std::vector<Address> addresses;
  const Json& networks = at(inspect, {"NetworkSettings", "Networks"});
  if (!networks.is_object()) return addresses;
  for (const auto& [name, on_it] : networks.items()) {
    auto take = [&](std::string ip, int64_t prefix, const char* gateway) {
      if (ip.empty()) return;
      addresses.push_back({.network = name,
                           .ip = std::move(ip),
                           .prefix = static_cast<unsigned>(prefix),
                           .mac = text_at(on_it, {"MacAddress"}),
                           .interface = {},
                           .gateway = text_at(on_it, {gateway})});
    };
    take(text_at(on_it, {"IPAddress"}), int_at(on_it, {"IPPrefixLen"}), "Gateway");
    take(text_at(on_it, {"GlobalIPv6Address"}), int_at(on_it, {"GlobalIPv6PrefixLen"}), "IPv6Gateway");
  }
  return addresses;
}

std::vector<Summary> summaries_from(const Json& list) {
  std::vector<Summary> rows;
  for (const auto& c : list.is_array() ? list : Json::array()) {
    if (bool_at(c, {"IsInfra"})) continue;
    auto names = texts_at(c, {"Names"});
    rows.push_back({"podman", text_at(c, {"Id"}), names.empty() ? std::string() : names[0], text_at(c, {"Image"}),
                    text_at(c, {"State"}), static_cast<pid_t>(int_at(c, {"Pid"}))});
  }
  return rows;
}

}  // namespace transship::engine
