// Keeps this node's tunnel as it should be, and learns the tunnel keys of peers: over sessions with them, in which each
// speaks for itself only.
#pragma once
#include <map>
#include <memory>
#include <string>

#include "base/mutex.h"
#include "base/thread.h"
#include "migrate/placements.h"
#include "migrate/services.h"
#include "network/tunnels.h"
#include "proto/local.pb.h"
#include "proto/peer.pb.h"

namespace transship::node {

struct TunnelKeeperOptions {
  bool enabled = true;
  network::TunnelOptions tunnel = {};
  std::string key_file = {};
};

// Thread-safe. Its own thread looks every half a minute whether all is there, and calls peers whose key is not known or
// whose end does not answer.
class TunnelKeeper final : public migrate::TunnelPaths {
 public:
  // Brings the tunnel up, or down when it is switched off. A node without one moves containers as ever: why it has none
  // is logged and stands in info().
  static Result<std::unique_ptr<TunnelKeeper>> start(migrate::Services& services, const TunnelKeeperOptions& options);
  ~TunnelKeeper() override;  // the tunnel stays
  TunnelKeeper(const TunnelKeeper&) = delete;
  TunnelKeeper& operator=(const TunnelKeeper&) = delete;

  // What `peer` says of its own end, in a session that comes from `remote`; our end is the answer.
  Result<peer::Reply> answer(const std::string& peer, const wire::Endpoint& remote, const peer::TunnelRequest& request);
  // There is a session with it: if its key is not known, it is asked soon.
  void met(const std::string& peer);
  // It, or its address: it is asked soon in any case.
  void pinned(const std::string& peer);
  // It is a peer no more.
  void forget(const std::string& peer);

  Result<std::string> interface_to(const std::string& peer) const override;
  std::vector<std::string> interfaces() const override;
  local::Tunnel info() const;
  // Fills in what is known of each one's end.
  void describe(local::PeersReply& reply) const;
  // Asks for its key if it is not known, and whether it answers through the tunnel.
  void check(wire::Session& session, local::PeerCheckReply& reply, const Cancel& cancel);

 private:
  struct Contact {
    bool known = false;   // its key
    bool wanted = false;  // also when it answers
    Clock::time_point next_try = {};
    milliseconds pause = {};
    std::string problem = {};
  };

  TunnelKeeper(migrate::Services& services, Cancel stop) : services_(services), stop_(std::move(stop)) {}
  Result<> prepare(const TunnelKeeperOptions& options);
  void run();
  void look_after_peers();
  void hurry_soon();
  void hurry_soon_locked() REQUIRES(mu_);
  void hurry_new_ends();
  Result<> sync();
  Result<> learn(const std::string& peer, const peer::TunnelEnd& end, const std::string& host);
  Result<> call(const std::string& peer);
  Result<> exchange(wire::Session& session, const std::string& peer, const Cancel& cancel);
  Result<peer::TunnelEnd> own_end(const std::string& peer) const;
  void note(const std::string& peer, const Result<>& outcome);
  void log_change(const Result<>& outcome);
  void describe_one(local::Peer& peer, const std::map<std::string, state::TunnelEnd>& ends,
                    const std::map<std::string, network::TunnelPeerStatus>& status) const;

  migrate::Services& services_;
  Cancel stop_;
  std::unique_ptr<network::Tunnels> tunnel_;  // none: why_none_; both constant after start
  std::string why_none_;
  Mutex syncing_;  // what the store says and what the tunnel is told stay in step
  mutable Mutex mu_;
  CondVar changed_;
  bool woken_ GUARDED_BY(mu_) = false;
  std::map<std::string, Contact> contacts_ GUARDED_BY(mu_);
  std::string last_trouble_ GUARDED_BY(mu_);
  unsigned hurries_left_ GUARDED_BY(mu_) = 0;
  Deadline next_hurry_ GUARDED_BY(mu_) = Deadline::in(milliseconds(0));
  Thread thread_;
};

}  // namespace transship::node
