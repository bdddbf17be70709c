// What a WireGuard interface is told and what it says of itself: text of `wg`, and the difference between two states.
// Pure.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "network/address.h"
#include "network/tunnel_key.h"

namespace transship::network {

struct UdpEndpoint {
  IpAddress address;
  uint16_t port = 0;
  auto operator<=>(const UdpEndpoint&) const = default;
};
// "192.0.2.1:7441", "[2001:db8::1]:7441".
Result<UdpEndpoint> parse_udp_endpoint(std::string_view text);
std::string to_text(const UdpEndpoint& endpoint);

// A pinned peer that has told us its tunnel key.
struct TunnelPeer {
  std::string name;
  unsigned number = 0;  // which of this node's tunnels leads to it
  TunnelPublicKey key;
  std::optional<UdpEndpoint> endpoint = {};  // nothing: it has to find us
};

struct WgPeer {
  TunnelPublicKey key;
  std::optional<UdpEndpoint> endpoint = {};
  std::vector<std::string> allowed = {};  // "10.88.0.3/32", sorted
  int64_t handshake_unix_s = 0;           // the last one; 0: never
  uint64_t received_bytes = 0;
  uint64_t sent_bytes = 0;
  unsigned keepalive_s = 0;  // 0: off
};

struct WgState {
  std::optional<TunnelPublicKey> key = {};
  uint16_t port = 0;
  std::vector<WgPeer> peers = {};
};

// `wg show INTERFACE dump`. The secret key in it is passed over. kCorrupt quotes nothing of it.
Result<WgState> parse_wg_dump(std::string_view text);

// Keeps a way open through address translation, and tells early when a peer is gone.
inline constexpr unsigned kTunnelKeepaliveS = 25;
// A handshake is at most this old on a tunnel that works: WireGuard makes a new one every two minutes and gives the old
// keys up after three.
inline constexpr int64_t kTunnelFreshS = 180;

// One peer as it should be.
struct WantedPeer {
  TunnelPublicKey key;
  std::optional<UdpEndpoint> endpoint = {};
  std::vector<std::string> allowed = {};  // sorted
  bool set_endpoint = true;               // false: the one that the interface has works
};
struct WantedState {
  TunnelPublicKey key;
  uint16_t port = 0;
  std::vector<WantedPeer> peers = {};
};

struct WgChange {
  bool interface = false;  // key or port
  std::vector<WantedPeer> put = {};
  std::vector<TunnelPublicKey> remove = {};
  bool empty() const { return !interface && put.empty() && remove.empty(); }
};
// Only what differs: a port that is set again closes its socket for a moment, an endpoint that is set again undoes what
// the interface has learnt. So an endpoint with a fresh handshake stays, whatever we know.
WgChange difference(const WgState& now, const WantedState& wanted, int64_t now_unix_s);

// Takes those peers out and puts them in again that are called over IPv6 and never answered: each begins a handshake at
// once, where it would wait for 5 s. For wireguard-go, which sends to a wrong address when it takes a buffer for IPv6
// that it had for IPv4 (conn/bind_std.go copies 16 bytes into the 4 that are left): one try mends one buffer.
WgChange begin_again(const WgState& now, const WantedState& wanted);

// For `wg addconf`: of `change` all but what is to be removed. `secret` is written only where the interface differs.
std::string wg_config(const WgChange& change, const std::string& secret, uint16_t port);

// What an interface with one peer lets through: which of it may pass is for the firewall to say.
std::vector<std::string> all_addresses();

}  // namespace transship::network
