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
};

struct RouteAnswer {
  unsigned interface = 0;
  std::optional<IpAddress> gateway = {};
};

// One thread at a time. Every call waits for the kernel's answer, 5 s at most.
class Netlink {
 public:
  static Result<Netlink> open();
  Result<unsigned> link_index(const std::string& name);
  Result<unsigned> link_mtu(unsigned interface);
  Result<> set_link_up(unsigned interface, unsigned mtu, unsigned queue_length);
  // Adds it, or replaces the one with the same address and metric.
  Result<> put_route(const HostRoute& route);
  // IPv4: before one with the same address and metric, which stays and counts again when this one goes. IPv6 has no
  // order among equals: there it replaces.
  Result<> put_route_first(const HostRoute& route);
  // Does the main table have a route of its own (/32 or /128) to it?
  Result<bool> has_host_route(const IpAddress& to);
  // Absent is fine.
  Result<> remove_route(const HostRoute& route);
  // How a packet to `to` would leave now. kUnavailable when there is no way.
  Result<RouteAnswer> route_to(const IpAddress& to);

 private:
  explicit Netlink(Fd socket) : socket_(std::move(socket)) {}
  Result<std::vector<uint8_t>> ask(std::span<uint8_t> message, std::string_view what);
  Fd socket_;
  uint32_t sequence_ = 0;
};

}  // namespace transship::network
