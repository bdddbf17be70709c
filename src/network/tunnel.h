// One WireGuard interface, to one peer: all that goes into it goes there, and all that comes out comes from there.
//
// It outlives this object and this process, because the traffic of moved containers goes through it: a later one adopts
// what it finds, and changes only what differs. take_tunnel_down() is what ends it.
#pragma once
#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/mutex.h"
#include "network/tunnel_link.h"

namespace transship::network {

struct TunnelOptions {
  std::string interface = "ts0";
  uint16_t port = 7441;  // UDP
  std::string run_dir = "/run/transship";
  bool kernel = true;  // false: wireguard-go also where the kernel could do it
};

struct TunnelStatus {
  std::string backend = {};  // "kernel", "wireguard-go", "none: why"
  bool up = false;
  unsigned mtu = 0;
};

struct TunnelPeerStatus {
  std::optional<std::chrono::seconds> handshake_age = {};  // nothing: there was none yet
  uint64_t received_bytes = 0;
  uint64_t sent_bytes = 0;
  bool answers() const { return handshake_age && handshake_age->count() < kTunnelFreshS; }
};

// Interface, process, socket, firewall table, files in the run directory; absent is fine, and so is an interface that
// is not ours: it stays.
Result<> take_tunnel_down(const TunnelOptions& options);
// Those that this run directory knows of.
std::vector<std::string> recorded_tunnels(const std::string& run_dir);

// Thread-safe: changes are made one after the other. Works in the network namespace of the calling thread.
class Tunnel {
 public:
  Tunnel(TunnelOptions options, TunnelKey key) : options_(std::move(options)), key_(std::move(key)) {}
  // Brings up what is missing and corrects what differs; call it now and then.
  Result<> set_peer(const TunnelPeer& peer);
  // Lets a peer over IPv6 that never answered begin its handshake again, where that helps: with wireguard-go, see
  // begin_again(). 1 when it did. For the first seconds of a peer.
  Result<size_t> hurry_peer();
  // wireguard-go has ended since the last call of set_peer(), which starts it again: true once, and logged. Cheap.
  bool notice_end();

  TunnelStatus status() const;
  // And its name. Asks the interface. kNotFound: it is not there yet.
  Result<std::pair<std::string, TunnelPeerStatus>> peer() const;
  Result<std::chrono::microseconds> ping_peer(Deadline deadline, const Cancel& cancel) const;
  const TunnelPublicKey& public_key() const { return key_.public_key(); }
  IpAddress address() const { return key_.public_key().address(); }
  const TunnelOptions& options() const { return options_; }

 private:
  Result<> apply() REQUIRES(changing_);
  Result<TunnelStatus> bring_up() REQUIRES(changing_);
  Result<TunnelLink> find_or_make(Netlink& netlink);
  Result<> adopt(const WgState& now, unsigned index) const;
  Result<> configure(Netlink& netlink, const TunnelLink& link, const WgState& now) REQUIRES(changing_);
  void watch(const TunnelLink& link);
  WantedState wanted_state() const;

  const TunnelOptions options_;
  const TunnelKey key_;
  Mutex changing_;  // one change at a time
  bool table_made_ GUARDED_BY(changing_) = false;
  mutable Mutex mu_;
  std::optional<TunnelPeer> peer_ GUARDED_BY(mu_);
  Fd process_ GUARDED_BY(mu_);  // of wireguard-go
  TunnelStatus status_ GUARDED_BY(mu_) = {.backend = "none: not started yet"};
};

}  // namespace transship::network
