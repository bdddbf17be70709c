// A node with two peers whose Redis is away, as the handlers of peers' requests need it. Nothing of it is stored, and
// nothing gets as far as this host's network.
#pragma once
#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "migrate/entry_handover.h"
#include "migrate/exposer.h"
#include "migrate/tunnel_cutover.h"

namespace transship::fuzz {

// In memory; only what the handlers ask for.
class FakeStore final : public state::Store {
 public:
  using Peer = state::Peer;
  Result<> add_peer(const Peer& peer) override {
    peers_.push_back(peer);
    return {};
  }
  Result<std::vector<Peer>> peers() override { return peers_; }
  Result<Peer> peer(const std::string& name) override {
    auto found = std::ranges::find(peers_, name, &Peer::name);
    if (found == peers_.end()) return fail(Errc::kNotFound, "no peer {}", name);
    return *found;
  }
  Result<> put_placed(const state::Placed& placed) override {
    placed_[placed.key] = placed.facts;
    return {};
  }
  Result<> remove_placed(const std::string& key) override {
    placed_.erase(key);
    return {};
  }
  Result<std::vector<state::Placed>> placed() override { return rows<state::Placed>(placed_); }
  Result<> put_exposed(const state::Exposed& exposed) override {
    exposed_[exposed.key] = exposed.facts;
    return {};
  }
  Result<> remove_exposed(const std::string& key) override {
    exposed_.erase(key);
    return {};
  }
  Result<std::vector<state::Exposed>> exposed() override { return rows<state::Exposed>(exposed_); }
  Result<> put_copy(const state::Copy& copy) override {
    copies_[copy.path] = copy.facts;
    return {};
  }
  Result<> remove_copy(const std::string& path) override {
    copies_.erase(path);
    return {};
  }
  Result<std::vector<state::Copy>> copies() override { return rows<state::Copy>(copies_); }

  Result<> remove_peer(const std::string& /*name*/) override { return none(); }
  Result<> set_peer_address(const std::string& /*name*/, const std::string& /*address*/) override { return none(); }
  Result<> put_tunnel_end(const state::TunnelEnd& /*end*/) override { return none(); }
  Result<std::vector<state::TunnelEnd>> tunnel_ends() override { return none(); }
  Result<unsigned> tunnel_number(const std::string& /*peer*/) override { return none(); }
  Result<> put_move(const state::Move& /*move*/, bool /*durable*/) override { return none(); }
  Result<state::Move> move(const std::string& /*id*/) override { return none(); }
  Result<std::vector<state::Move>> moves(size_t /*newest*/) override { return none(); }
  Result<std::vector<state::Move>> unfinished_moves() override { return none(); }
  Result<> decide(const std::string& /*move_id*/, state::Decision /*decision*/) override { return none(); }
  Result<> abort_after_all(const std::string& /*move_id*/) override { return none(); }
  Result<std::optional<state::Decision>> decision(const std::string& /*move_id*/) override { return none(); }
  Result<uint64_t> add_event(const std::string& /*move_id*/, std::string_view /*event*/) override { return none(); }
  Result<std::vector<Event>> events(const std::string& /*move_id*/, uint64_t /*after*/) override { return none(); }
  Result<> prune_moves(size_t /*keep*/) override { return none(); }

 private:
  static std::unexpected<Error> none() { return fail(Errc::kNotFound, "nothing is stored here"); }
  template <class Row>
  static std::vector<Row> rows(const std::map<std::string, std::string>& all) {
    std::vector<Row> list;
    for (const auto& [key, facts] : all) list.push_back({key, facts});
    return list;
  }
  std::vector<Peer> peers_;
  std::map<std::string, std::string> placed_, exposed_, copies_;
};

// By the names of the lab: this is aws.
class FakeNode final : public migrate::TunnelPaths {
 public:
  FakeNode();
  static std::string key(const std::string& peer) { return "SHA256:" + peer; }
  std::string own() const { return services.identity.fingerprint().text(); }

  Result<std::string> interface_to(const std::string& peer) const override {
    if (peer == "azure") return "ts1";
    if (peer == "openstack") return "ts2";
    return fail(Errc::kUnavailable, "there is no tunnel to {}", peer);
  }
  std::vector<std::string> interfaces() const override { return {"ts1", "ts2"}; }

  migrate::Services services;
  migrate::Exposures exposures;
  migrate::Placements placements;
  migrate::Exposer exposer;
  migrate::TunnelCutover cutover;
  migrate::EntryHandover handover;
};

}  // namespace transship::fuzz
