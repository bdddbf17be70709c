// The cutover driver "tunnel": a moved container keeps its addresses, and its packets go through the tunnel between the
// node where they are at home and the node where it is. At most one tunnel on the way, wherever it moves.
//
// Who may say where a container is: its home believes the node that has it, when that names who gets it next, and then
// that one, when it has it. Nobody else.
#pragma once
#include "migrate/placements.h"
#include "migrate/services.h"
#include "network/cutover.h"
#include "proto/peer.pb.h"

namespace transship::migrate {

class TunnelCutover final : public network::CutoverDriver {
 public:
  // All of them outlive this object.
  TunnelCutover(const Services& services, Placements& placements, const TunnelPaths& paths)
      : services_(services), placements_(placements), paths_(paths) {}
  std::string_view name() const override { return "tunnel"; }

  void identify(network::CutoverFacts& facts) const override;
  Result<> prepare_leave(const network::CutoverFacts& facts) override;
  void stay(const network::CutoverFacts& facts) override;
  Result<std::optional<std::string>> left(const network::CutoverFacts& facts) override;
  void settled(const network::CutoverFacts& facts) override;
  void gone(const network::CutoverFacts& facts) override;
  Result<> rollback(const network::CutoverFacts& /*facts*/) override { return {}; }  // see stay()

  Result<std::string> judge_arrival(const network::CutoverFacts& facts) override;
  Result<> prepare_arrival(const network::CutoverFacts& facts, const std::string& netns) override;
  bool knows_connections(const network::CutoverFacts& facts) const override { return at_home(facts); }
  void undo_arrival(const network::CutoverFacts& facts) override;
  Result<> commit(const network::CutoverFacts& facts) override;
  void arrived(const network::CutoverFacts& facts) override;

  // What `peer` says of a container whose home is here. kRefused: it is not its turn to say so.
  Result<> told(const std::string& peer, const peer::PlacedRequest& request);
  // Tells homes what they have not heard yet: that a container is here, or that it has been removed here. Now and then.
  void tell_homes();
  // Late packets of those that are home again are not let in any more, some seconds later. Now and then.
  void forget_who_is_home();

 private:
  bool at_home(const network::CutoverFacts& facts) const;
  Result<> check_free(const network::CutoverFacts& facts) const;
  Result<std::string> peer_with(const std::string& fingerprint) const;
  Result<PlacedContainer> away(const network::CutoverFacts& facts) const;
  Result<> tell_arrival(PlacedContainer guest);
  Result<> tell_removal(PlacedContainer guest);
  bool removed(const PlacedContainer& guest) const;
  Result<> tell_home(const PlacedContainer& guest, const std::string& next_fingerprint);
  void end_addresses(const network::CutoverFacts& facts);
  void apply(std::string_view what);
  void forget(const PlacedContainer& c, std::string_view what);

  const Services& services_;
  Placements& placements_;
  const TunnelPaths& paths_;
};

}  // namespace transship::migrate
