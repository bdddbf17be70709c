// Links and routes of this network namespace over one rtnetlink socket: a change takes microseconds, no child process.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "network/address.h"

namespace transship::network {

// A host route (/32 or /128) in the main table, marked as ours.
struct HostRoute {
  static constexpr uint8_t kProtocol = 183;  // nobody's in rt_protos; shown by `ip route` as "proto 183"
  IpAddress to;
  unsigned interface = 0;
  std::optional<IpAddress> gateway = {};
  uint32_t metric = 0;
  uint8_t protocol = kProtocol;
  bool unreachable = false;  // leads nowhere, and senders are told so
};

struct RouteAnswer {
  unsigned interface = 0;
  std::optional<IpAddress> gateway = {};
  unsigned mtu = 0;  // of the route itself, when it has one: else the interface's counts
};

// One thread at a time. Every call waits for the kernel's answer, 5 s at most.
class Netlink {
 public:
  static Result<Netlink> open();
  Result<unsigned> link_index(const std::string& name);
  Result<unsigned> link_mtu(unsigned interface);
  // Packets that it has sent, or dropped, since it is there. A TUN has sent what its program has read.
  Result<uint64_t> link_taken(unsigned interface);
  Result<> set_link_up(unsigned interface, unsigned mtu, unsigned queue_length);
  // A virtual interface: "wireguard", "dummy", "bridge". EEXIST: the name is taken; EOPNOTSUPP: this kernel has no
  // such.
  Result<> make_link(const std::string& name, const std::string& kind);
  // "wireguard", "tun", "veth"; empty for an interface of hardware.
  Result<std::string> link_kind(unsigned interface);
  // Absent is fine.
  Result<> remove_link(unsigned interface);
  // There already is fine. No duplicate address detection. `for_host_only`: nothing is sent from it.
  Result<> put_address(unsigned interface, const IpAddress& address, bool for_host_only = false);
  // In the main table, through the interface; there already is fine.
  Result<> put_prefix_route(const IpAddress& prefix, unsigned bits, unsigned interface);
  // The largest packet that leaves towards `to` whole, as far as this host knows.
  Result<unsigned> path_mtu(const IpAddress& to);
  // Adds it, or replaces the one with the same address and metric.
  Result<> put_route(const HostRoute& route);
  // IPv4: before one with the same address and metric, which stays and counts again when this one goes. IPv6 has no
  // order among equals: there it replaces.
  Result<> put_route_first(const HostRoute& route);
  // Does the main table have a route of its own (/32 or /128) to it?
  Result<bool> has_host_route(const IpAddress& to);
  // Absent is fine. Interface 0: whichever it leads to.
  Result<> remove_route(const HostRoute& route);
  // This host answers for `address` on the interface, or does so no more; there already, or absent, is fine.
  Result<> put_answer(unsigned interface, const IpAddress& address, uint8_t protocol);
  Result<> remove_answer(unsigned interface, const IpAddress& address);
  // How a packet to `to` would leave now. kUnavailable when there is no way.
  Result<RouteAnswer> route_to(const IpAddress& to);

 private:
  explicit Netlink(Fd socket) : socket_(std::move(socket)) {}
  Result<std::vector<uint8_t>> ask(std::span<uint8_t> message, std::string_view what);
  Fd socket_;
  uint32_t sequence_ = 0;
};

}  // namespace transship::network
