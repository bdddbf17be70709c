// What the kernel of a node has to know of containers that moved: on the node that is their home, where their packets
// go now; on the node where they are, how what they send gets home (docs/network.md, "The tunnel").
//
// Pure but for PlacementKernel, which compares all of it with what is there and puts right what differs.
#pragma once
#include <compare>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "network/address.h"
#include "network/exposure.h"

namespace transship::network {

// A port of this host that leads to a container, as the engine had published it.
struct PublishedPort {
  std::string protocol = "tcp";                // or udp, sctp
  std::optional<IpAddress> host_address = {};  // nothing: all of the host's
  uint16_t host_port = 0;
  uint16_t container_port = 0;
  auto operator<=>(const PublishedPort&) const = default;
};

// Its home is here, and it is elsewhere.
struct AwayContainer {
  std::string id;  // of the container, for people
  std::vector<IpAddress> addresses;
  std::string tunnel;  // interface to where it is
  std::string bridge;  // interface of its network on this host; may be gone with the last container of it
  std::vector<PublishedPort> ports = {};
  bool staged = false;  // about to leave: what it will send may come, nothing goes there yet
  bool late = false;    // on its way home: packets for it that were held there come out of the tunnel
  bool back = false;    // it is home: nothing but those
  bool operator==(const AwayContainer&) const = default;
};

// It is here, and its home is elsewhere.
struct GuestContainer {
  std::string id;
  std::vector<IpAddress> addresses;
  std::string tunnel;                  // interface to its home
  std::string bridge;                  // interface of its network on this host
  std::vector<std::string> late = {};  // interfaces from which packets for it may come as well: where it was before
  bool operator==(const GuestContainer&) const = default;
};

struct Placement {
  std::vector<std::string> tunnels;  // every tunnel interface; what one is not used for does not pass
  std::vector<AwayContainer> away;
  std::vector<GuestContainer> guests;
  std::vector<EntryPort> entries = {};
  std::vector<ExposedPort> exposed = {};
  std::vector<IpAddress> entry_sources = {};  // of this node, for its entries
  bool operator==(const Placement&) const = default;
};

// Nothing to do for anybody.
inline bool is_empty(const Placement& p) {
  return p.away.empty() && p.guests.empty() && p.entries.empty() && p.exposed.empty();
}

// Everything of it carries this number where the kernel has a field for it (`ip route show table all proto 185`).
inline constexpr unsigned kPlacementProtocol = 185;
// Worse than the route into a hold, better than the one that a hold forwards late packets by.
inline constexpr unsigned kPlacementMetric = 6'000;
// What may pass a tunnel has this mark; the tunnel's own table drops the rest (network/tunnel_table.h).
inline constexpr const char* kPassMark = "0x760000";
inline constexpr const char* kMarkMask = "0xff0000";
inline constexpr const char* kPlacementTable = "transship_moved";  // inet

struct PlacedRoute {
  std::string to;  // an address, or "default"
  bool v4 = true;
  std::string interface;
  uint32_t table = 0;  // 0: main, and there kPlacementMetric
  auto operator<=>(const PlacedRoute&) const = default;
};
struct PlacedRule {
  uint32_t priority = 0;
  bool v4 = true;
  std::string from = {};       // an address; empty: all
  std::string interface = {};  // that it comes in by; empty: any
  uint32_t mark = 0;           // of what it is for, with kMarkMask; 0: for all
  uint32_t table = 0;          // 0: main
  auto operator<=>(const PlacedRule&) const = default;
};
// An address for which this host answers on an interface.
struct PlacedNeighbour {
  std::string address;
  bool v4 = true;
  std::string interface;
  auto operator<=>(const PlacedNeighbour&) const = default;
};
// Each sorted, without doubles.
struct PlacedState {
  std::vector<PlacedRoute> routes;
  std::vector<PlacedRule> rules;
  std::vector<PlacedNeighbour> neighbours;
  bool operator==(const PlacedState&) const = default;
};
// kInvalidArgument: an interface's name that can't be one, an address twice.
Result<PlacedState> wanted_state(const Placement& placement);
// The whole table, for `nft -f`, in place of an earlier one. Empty placement: only the removal.
std::string firewall_script(const Placement& placement);
// Lines for `ip -4 -batch` or `ip -6 -batch`: first what is too much, then what is missing.
std::string route_changes(const PlacedState& now, const PlacedState& wanted, bool v4);

// For `ip -6 -batch` in a guest's network namespace, from what `ip -6 -json -details route show` says there: the rest
// of its network, in two halves, by way of its gateway. The kernel has no answer on behalf of a whole IPv6 network, as
// it has for IPv4 (proxy_arp).
std::string gateway_routes(const std::string& routes_v6);

// What `ip -json` prints: all of it, of which only ours is taken.
struct IpListings {
  std::string routes;              // route show table all proto 185
  std::string rules_v4, rules_v6;  // -details rule show
  std::string neighbours;          // -details neigh show proxy
};
Result<PlacedState> parse_placed_state(const IpListings& listings);
// In what `ip -json route show` prints of the main table: has somebody else a route to just this address, and we none
// before it? (A hold's do not count.)
bool beaten_by_own_route(const std::string& routes, const std::string& address);

// What `check` finds, one sentence each.
struct PlacementDifference {
  std::vector<std::string> missing, extra;
  bool empty() const { return missing.empty() && extra.empty(); }
};

// Works in the network namespace of the calling thread. One caller at a time.
class PlacementKernel {
 public:
  // Rules before routes: nothing passes that is not to pass. Idempotent; some tens of milliseconds. A way that is
  // switched meanwhile (lead_away, lead_home) would be taken for one that is not wanted: before each change of routes
  // `still` is asked, and when it says no, the rest is left to the next call.
  Result<> apply(const Placement& placement, const std::function<bool()>& still = [] { return true; });
  // What is there of ours and should not be, and the other way round.
  Result<PlacementDifference> compare(const Placement& placement) const;
  // Nobody moved: nothing of ours is left.
  Result<> clear() { return apply({}); }
};

// In the network namespace of the calling thread, which is a guest's: see gateway_routes(). Idempotent.
Result<> set_gateway_routes();

// From the return on packets for the addresses go into the tunnel, by routes that PlacementKernel knows as its own; who
// is on `bridge` (empty or absent: nobody) is answered and told. Microseconds.
Result<> lead_away(const std::vector<IpAddress>& addresses, const std::string& tunnel, const std::string& bridge);
// And back.
Result<> lead_home(const std::vector<IpAddress>& addresses, const std::string& bridge);

class Netlink;
// Removes every route of ours to the address in the main table; none is fine.
Result<> remove_ways(Netlink& netlink, const IpAddress& address);

// Says on `interface` that `address` is behind this host now, so that neighbours that know another hardware address for
// it take this one's: they would go on sending into the void for seconds.
Result<> announce_neighbour(const std::string& interface, const IpAddress& address);

}  // namespace transship::network
