// Ports of a node, the entry, that lead to a container wherever it is: always by way of its home, so that a move
// changes nothing here (docs/network.md, "Exposed ports").
//
// Pure: what the firewall has to say of them. PlacementKernel puts it there with what is known of moved containers.
#pragma once
#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "network/address.h"

namespace transship::network {

struct Placement;
struct PlacedState;

struct ExposedAddress {
  IpAddress address;
  unsigned prefix = 0;  // bits of its network's; 0: not known
  auto operator<=>(const ExposedAddress&) const = default;
};

// This node is the entry.
struct EntryPort {
  std::string protocol = "tcp";  // or udp
  uint16_t port = 0;             // of this node
  std::vector<ExposedAddress> addresses;
  uint16_t container_port = 0;
  std::string tunnel = {};  // interface to the container's home; empty: that is here
  bool shut = false;        // there is no way at the moment: clients wait, and are not told that nobody is here
  bool late = false;        // the port leads elsewhere now: what its connections send last still comes from there
  // For this node's own HTTP gateway (src/gateway): `port` is one of inner_address(), which nobody else's packets
  // reach.
  bool inner = false;
  auto operator<=>(const EntryPort&) const = default;
};

// The container's home is here, and the entry is another node.
struct ExposedPort {
  std::string protocol = "tcp";
  std::vector<IpAddress> addresses;
  uint16_t container_port = 0;
  std::string tunnel;  // interface to the entry; empty: there is none at the moment, and replies wait
  auto operator<=>(const ExposedPort&) const = default;
};

// Routing by mark: one table for each tunnel, by the number at the end of its interface's name.
inline constexpr uint32_t kFirstEntryTable = 74'300;
inline constexpr unsigned kMaxEntryTunnels = 64;
// The zone of connection tracking in which an entry has the connections that lead into a tunnel: it may have others
// between the same addresses, of a container of its own or of this one as a guest.
inline constexpr unsigned kFirstEntryZone = 7'400;

// "ts3" is 3. kInvalidArgument: no number, or kMaxEntryTunnels or more.
Result<unsigned> tunnel_number_of(const std::string& interface);
// What a container sees as the client when the client's own address would lead its replies elsewhere: a process on the
// entry itself, or a neighbour by its own prefix. Not an address of any interface; the same for the same `node`, and
// different for different ones as far as 17 (IPv4) or 80 bits can be.
std::vector<IpAddress> entry_sources(const std::string& node);

// An address of this host's loopback interface, the same on every node, whose ports lead processes of this host to
// containers.
IpAddress inner_address(bool v4);

// Rules of chains in table kPlacementTable, one a line; empty: no need of it. Requires: tunnels have numbers.
std::string entry_zone_rules(const Placement& p, bool local);  // filter, prerouting or output, before tracking
std::string entry_port_rules(const Placement& p, bool local);  // nat, prerouting or output
std::string entry_mark_rules(const Placement& p, bool local);  // prerouting: filter; output: route; after nat
// filter, postrouting or input: what is for a container goes into its tunnel or nowhere, not to this node itself.
std::string entry_stray_rules(const Placement& p, bool out_of_here);
std::string entry_source_rules(const Placement& p);                                // nat, postrouting
std::string exposed_rules(const Placement& p);                                     // filter, prerouting, after tracking
std::string exposed_output_rules(const Placement& p);                              // filter, output
std::string exposed_passing_rules(const Placement& p, const std::string& tunnel);  // filter, forward
// Routes and rules of it.
void add_exposure_state(const Placement& p, PlacedState& s);
// The tunnels that any of it needs, without doubles.
std::vector<std::string> exposure_tunnels(const Placement& p);

}  // namespace transship::network
