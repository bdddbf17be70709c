#include "engine/podman_conflicts.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>

#include "base/text.h"
#include "engine/volumes.h"

namespace transship::engine {
namespace {

using Rows = std::vector<Conflict>;

const Json& elements(const Json& list) {
  static const Json kNone = Json::array();
  return list.is_array() ? list : kNone;
}

void check_name(Rows& rows, const Container& wanted, const PodmanHost& host) {
  for (const auto& c : elements(host.containers)) {
    auto names = texts_at(c, {"Names"});
    if (std::ranges::find(names, wanted.name) == names.end()) continue;
    rows.push_back({"name",
                    fmt::format("container {} of this host has the name {} ({})", text_at(c, {"Id"}).substr(0, 12),
                                wanted.name, text_at(c, {"State"})),
                    fmt::format("podman rename or podman rm {} there", wanted.name)});
  }
}

// "0.0.0.0:8080", "[::]:53"
std::string shown(const HostPort& p) {
  if (p.host_ip.contains(':')) return fmt::format("[{}]:{}/{}", p.host_ip, p.host_port, p.protocol);
  return fmt::format("{}:{}/{}", p.host_ip.empty() ? "0.0.0.0" : p.host_ip, p.host_port, p.protocol);
}

void check_ports(Rows& rows, const Container& wanted, const PodmanHost& host) {
  std::vector<Listener> published;
  std::vector<std::string> owners;
  for (const auto& c : elements(host.containers)) {
    if (text_at(c, {"State"}) != "running" && text_at(c, {"State"}) != "paused") continue;
    for (const auto& p : elements(at(c, {"Ports"}))) {
      auto range = std::clamp<int64_t>(int_at(p, {"range"}), 1, 65536);
      for (int64_t n = 0; n < range; ++n) {
        auto ip = text_at(p, {"host_ip"});
        published.push_back(
            {text_at(p, {"protocol"}), ip == "0.0.0.0" ? "" : ip, static_cast<uint16_t>(int_at(p, {"host_port"}) + n)});
        owners.push_back(texts_at(c, {"Names"}).empty() ? text_at(c, {"Id"}).substr(0, 12) : texts_at(c, {"Names"})[0]);
      }
    }
  }
  for (const auto& port : wanted.host_ports) {
    auto by = [&port](const Listener& l) { return overlaps(port, l); };
    auto owner = std::ranges::find_if(published, by);
    if (owner != published.end())
      rows.push_back({"host-port",
                      fmt::format("{} is published by container {}", shown(port),
                                  owners[static_cast<size_t>(owner - published.begin())]),
                      "stop that container, or publish another port"});
    else if (std::ranges::any_of(host.listeners, by))
      rows.push_back({"host-port", fmt::format("a process of this host listens on {}", shown(port)),
                      fmt::format("find it with: ss -lnp 'sport = :{}'", port.host_port)});
  }
}

void check_addresses(Rows& rows, const Address& address, const Json& network) {
  auto inside = [&](const Json& s) { return subnet_contains(text_at(s, {"subnet"}), address.ip); };
  const Json& subnets = elements(at(network, {"subnets"}));
  if (std::ranges::none_of(subnets, inside)) {
    std::vector<std::string> have;
    for (const auto& s : subnets) have.push_back(text_at(s, {"subnet"}));
    rows.push_back({"network",
                    fmt::format("network {} has {}, not an address like {}", address.network,
                                have.empty() ? "no subnet" : join(have, " and "), address.ip),
                    fmt::format("make it there with the subnet that it has on the source ({}/{} is in it)", address.ip,
                                address.prefix)});
    return;
  }
  for (const auto& s : subnets)
    if (text_at(s, {"gateway"}) == address.ip)
      rows.push_back({"address",
                      fmt::format("{} is the gateway of network {} on this host", address.ip, address.network),
                      "make the network there with another gateway"});
  const Json& containers = at(network, {"containers"});
  if (!containers.is_object()) return;
  for (const auto& [id, c] : containers.items())
    for (const auto& interface : at(c, {"interfaces"}).is_object() ? at(c, {"interfaces"}) : Json::object())
      for (const auto& s : elements(at(interface, {"subnets"})))
        if (auto net = text_at(s, {"ipnet"}); net.substr(0, net.find('/')) == address.ip)
          rows.push_back({"address", fmt::format("container {} of this host has {}", text_at(c, {"name"}), address.ip),
                          "stop or move that container"});
}

// Podman would refuse to start it, long after the move.
void check_fixed(Rows& rows, const Address& address, const PodmanHost& host) {
  for (const auto& f : host.fixed)
    if (f.network == address.network && f.ip == address.ip)
      rows.push_back({"address",
                      fmt::format("container {} of this host ({}) was given {}, which it takes when it starts",
                                  f.container, f.state, f.ip),
                      fmt::format("podman rm {0} there, or make {0} with another address", f.container)});
}

// Every network it is attached to, also those without an address to keep.
std::vector<std::string> wanted_networks(const PodmanSpec& spec) {
  std::vector<std::string> names;
  const Json& all = at(spec.create, {"Networks"});
  if (all.is_object())
    for (const auto& [name, options] : all.items()) names.push_back(name);
  return names;
}

void check_networks(Rows& rows, const Container& wanted, const PodmanSpec& spec, const PodmanHost& host) {
  for (const auto& name : wanted_networks(spec)) {
    auto it = std::ranges::find_if(host.networks, [&](const Json& n) { return text_at(n, {"name"}) == name; });
    if (it == host.networks.end()) {
      rows.push_back({"network", fmt::format("this host has no network {}", name),
                      fmt::format("podman network create --subnet SUBNET {} there, as on the source", name)});
      continue;
    }
    for (const auto& address : wanted.addresses) {
      if (address.network != name || wanted.new_address) continue;
      check_addresses(rows, address, *it);
      check_fixed(rows, address, host);
    }
  }
}

void check_engine(Rows& rows, const PodmanHost& host) {
  if (auto driver = text_at(host.info, {"store", "graphDriverName"}); driver != "overlay")
    rows.push_back({"storage-driver", fmt::format("Podman's storage driver here is {}", driver),
                    "set driver = \"overlay\" in /etc/containers/storage.conf"});
  if (text_at(host.info, {"store", "graphStatus", "Using metacopy"}) == "true")
    rows.push_back({"storage-driver", "overlay runs with metacopy=on, where a changed file's content may be elsewhere",
                    "remove metacopy=on from mountopt in /etc/containers/storage.conf"});
}

void check_needs(Rows& rows, const PodmanSpec& spec, const PodmanHost& host) {
  for (const auto& secret : spec.secrets)
    if (std::ranges::find(host.secrets, secret) == host.secrets.end())
      rows.push_back({"secret", fmt::format("this host has no secret {}", secret),
                      fmt::format("podman secret create {} FILE there", secret)});
  for (const auto& path : host.missing_paths)
    rows.push_back({"file", fmt::format("this host has no {}", path), "install it there under the same path"});
}

void check_volumes(Rows& rows, const Container& wanted, const PodmanHost& host) {
  for (const auto& m : wanted.mounts)
    if (m.type == "volume" && m.copy_here == CopyHere::kNone && std::ranges::contains(host.volumes, m.volume))
      rows.push_back(
          {"volumes", fmt::format("this host has a volume {}", m.volume),
           fmt::format("what is in it would be lost: podman volume rm {} there, if nobody needs it", m.volume)});
  for (auto& row : bind_conflicts(wanted)) rows.push_back(std::move(row));
}

struct Parsed {
  int family = 0;
  std::array<unsigned char, 16> bytes{};
};

Parsed parse_ip(const std::string& ip) {
  Parsed p;
  if (::inet_pton(AF_INET, ip.c_str(), p.bytes.data()) == 1)
    p.family = AF_INET;
  else if (::inet_pton(AF_INET6, ip.c_str(), p.bytes.data()) == 1)
    p.family = AF_INET6;
  return p;
}

}  // namespace

std::vector<FixedAddress> fixed_addresses(const Json& generated) {
  std::vector<FixedAddress> fixed;
  const Json& networks = at(generated, {"Networks"});
  if (!networks.is_object()) return fixed;
  for (const auto& [name, options] : networks.items())
    for (const auto& ip : texts_at(options, {"static_ips"}))
      fixed.push_back({.container = {}, .state = {}, .network = name, .ip = ip});
  return fixed;
}

bool subnet_contains(const std::string& subnet, const std::string& ip) {
  auto slash = subnet.find('/');
  if (slash == std::string::npos) return false;
  auto bits = parse_u64(std::string_view(subnet).substr(slash + 1), "prefix");
  auto net = parse_ip(subnet.substr(0, slash));
  auto address = parse_ip(ip);
  if (!bits || net.family == 0 || net.family != address.family) return false;
  if (*bits > (net.family == AF_INET ? 32U : 128U)) return false;
  for (size_t bit = 0; bit < *bits; ++bit) {
    auto mask = static_cast<unsigned char>(0x80U >> (bit % 8));
    if (((net.bytes[bit / 8] ^ address.bytes[bit / 8]) & mask) != 0) return false;
  }
  return true;
}

std::vector<Conflict> find_conflicts(const Container& wanted, const PodmanSpec& spec, const PodmanHost& host) {
  Rows rows = spec.blocks;
  check_engine(rows, host);
  check_name(rows, wanted, host);
  check_ports(rows, wanted, host);
  check_networks(rows, wanted, spec, host);
  check_needs(rows, spec, host);
  check_volumes(rows, wanted, host);
  return rows;
}

}  // namespace transship::engine
