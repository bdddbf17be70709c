// The node's tunnels: one WireGuard interface for each pinned peer that has told us its tunnel key (docs/network.md).
// By itself, WireGuard chooses the peer by a packet's destination; what a moved container sends has to go to its home,
// whatever the destination is.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "network/tunnel.h"

namespace transship::network {

// What is of no tunnel in `keep` (interfaces) goes: interfaces, processes, sockets, firewall tables, files in the run
// directory. The key stays. For what a peer that is none any more, or the last daemon, has left.
Result<> take_tunnels_down(const std::string& run_dir, const std::vector<std::string>& keep = {});

// Thread-safe: changes are made one after the other. Works in the network namespace of the calling thread.
class Tunnels {
 public:
  // Of `options` the interface is the beginning of the interfaces' names, and the port the first one.
  Tunnels(TunnelOptions options, TunnelKey key) : options_(std::move(options)), key_(std::move(key)) {}
  // Exactly these peers from now on. Brings up what is missing and corrects what differs; call it now and then. An
  // error of one does not keep the others from it.
  Result<> set_peers(const std::vector<TunnelPeer>& peers);
  // See Tunnel.
  Result<size_t> hurry_peers();
  bool notice_end();

  // Of the first one that is up, else of the first one.
  TunnelStatus status() const;
  // By name, those that are up. Asks the interfaces.
  std::map<std::string, TunnelPeerStatus> peers() const;
  // kNotFound: no such peer, or its key is not known.
  Result<std::chrono::microseconds> ping_peer(const std::string& peer, Deadline deadline, const Cancel& cancel) const;
  // kUnavailable with the reason when it is not up.
  Result<std::string> interface_to(const std::string& peer) const;
  // Those that are there, in the order of their numbers.
  std::vector<std::string> interfaces() const;

  const TunnelPublicKey& public_key() const { return key_.public_key(); }
  IpAddress address() const { return key_.public_key().address(); }
  // Of the tunnel to the peer that has this number.
  std::string interface_of(unsigned number) const { return fmt::format("{}{}", options_.interface, number); }
  uint16_t port_of(unsigned number) const { return static_cast<uint16_t>(options_.port + number); }
  const TunnelOptions& options() const { return options_; }

 private:
  std::shared_ptr<Tunnel> find(const std::string& peer) const;
  std::vector<std::shared_ptr<Tunnel>> all() const;
  std::shared_ptr<Tunnel> tunnel_for(const TunnelPeer& peer);

  const TunnelOptions options_;
  const TunnelKey key_;
  Mutex changing_;  // one change at a time; before mu_
  mutable Mutex mu_;
  std::map<std::string, std::shared_ptr<Tunnel>> tunnels_ GUARDED_BY(mu_);  // by peer
  std::string last_error_ GUARDED_BY(mu_);
};

}  // namespace transship::network
