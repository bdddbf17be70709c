// Exposed ports of a container that moves with a new address: its home changes, and with it who has the say of them
// (docs/design/0009-new-address.md).
//
//   ports_of(), offer()  the home tells each entry: that node may be the next home       while the container runs
//   claim()              that node tells each entry: I am, and these are the addresses   after the commit
//   settle()             the home forgets them
//   withdraw()           instead of the last two: nobody else may be
//
// An entry needs both words, and has them from two pinned keys. Whichever is late or lost is said again by
// Exposer::keep_up().
#pragma once
#include <string>
#include <vector>

#include "migrate/exposer.h"
#include "network/cutover.h"

namespace transship::migrate {

// Thread-safe.
class EntryHandover {
 public:
  // All of them outlive this object.
  EntryHandover(const Services& services, Placements& placements, Exposures& exposures, Exposer& exposer)
      : services_(services), placements_(placements), exposures_(exposures), exposer_(exposer) {}

  // ---- where the container is. `facts`: with its home.
  // Asks the home when that is another node.
  Result<std::vector<peer::ExposedPort>> ports_of(const network::CutoverFacts& facts);
  // To the node `destination` (a name). Which entries did not hear of it, a sentence each: they hear of it later.
  Result<std::vector<std::string>> offer(const network::CutoverFacts& facts, const std::string& destination);
  void withdraw(const network::CutoverFacts& facts);
  // It is there, and nothing is to come back this way any more. Where the home is another node that hears of it as of
  // a container that is gone.
  void settle(const network::CutoverFacts& facts);
  // "azure:7379/tcp"
  std::string text_of(const peer::ExposedPort& port) const;

  // ---- home: from the node that has the container
  Result<peer::HandoverReply> asked(const std::string& peer, const peer::HandoverRequest& request);

  // ---- where it has come to
  // Why some of them cannot lead here, a sentence each.
  std::vector<std::string> objections(const std::vector<peer::ExposedPort>& ports) const;
  // `wanted`: name and engine; `addresses`: its own here. Returns when every entry has heard, or could not.
  void claim(const engine::Container& wanted, const std::vector<engine::Address>& addresses,
             const std::vector<peer::ExposedPort>& ports);

 private:
  std::vector<Exposure> at_home(const std::string& name, const std::vector<network::IpAddress>& addresses) const;
  bool home_is_here(const network::CutoverFacts& facts) const;
  Result<peer::HandoverReply> ask_home(const network::CutoverFacts& facts, const peer::HandoverRequest& request);
  std::vector<std::string> name_next(std::vector<Exposure> exposures, const std::string& next);
  Result<Exposure> claimed(const engine::Container& wanted, const std::vector<network::ExposedAddress>& addresses,
                           const peer::ExposedPort& port);
  void tell_claimed(Exposure e);

  const Services& services_;
  Placements& placements_;
  Exposures& exposures_;
  Exposer& exposer_;
};

}  // namespace transship::migrate
