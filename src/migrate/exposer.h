// Exposes ports of containers: `transship expose`, and what nodes tell each other about it.
//
// The container's home has the say. It tells the entry which port leads to which of its containers; the node that has
// the container now, and the entry (that it is to end), may ask it. Nobody else.
#pragma once
#include <map>
#include <string>

#include "migrate/exposures.h"
#include "migrate/placements.h"
#include "migrate/services.h"
#include "proto/peer.pb.h"

namespace transship::migrate {

struct ExposeOrder {
  std::string container;  // NAME, podman:NAME, runc:ID
  uint32_t container_port = 0;
  std::string protocol = "tcp";
  std::string node;   // the entry: this node, or a peer
  uint32_t port = 0;  // of the entry; 0: as the container's
};

// Thread-safe. Every call ends within some seconds for each node that it asks.
class Exposer {
 public:
  // All of them outlive this object.
  Exposer(const Services& services, Placements& placements, Exposures& exposures, const TunnelPaths& paths)
      : services_(services), placements_(placements), exposures_(exposures), paths_(paths) {}

  // Where its home is here, or itself. kNotFound: no such container or node; kAlreadyExists: the port is taken;
  // kUnavailable: no tunnel, or no answer; kRefused: it has no address. On an error nothing is left, or will be once
  // the entry answers again.
  Result<Exposure> expose(const ExposeOrder& order);
  // On the container's home or on the entry. kNotFound.
  Result<> end(const std::string& protocol, const std::string& node, uint32_t port);
  std::vector<Exposure> all() const { return exposures_.all(); }
  // "azure": how that node is called here; empty for one that is no peer.
  std::string node_with(const std::string& fingerprint) const;
  // Where it is now, as far as its home knows; empty on another node.
  std::string place_of(const Exposure& e) const;

  // As the home: from the node that has a container, or from the entry.
  Result<> asked(const std::string& peer, const peer::ExposeRequest& request);
  // As the entry: from the home, or from the node that the home has named as the next one.
  Result<> told(const std::string& peer, const peer::EntryRequest& request);

  // Ends what belongs to containers and peers that are gone, tells entries what they have not heard. Now and then.
  void keep_up();

  // ---- for EntryHandover
  // `may_know`: there was no answer, so the entry may have heard it.
  Result<> tell_entry(const Exposure& e, bool& may_know);
  // Is there a tunnel that ports can be exposed through? kUnavailable says why not.
  Result<> check_way(const std::string& peer) const;
  // As the home: the container has gone to `e.next`, with another address.
  Result<> give(Exposure e);

 private:
  Result<std::string> fingerprint_of(const std::string& node) const;
  Result<Exposure> at_home(const ExposeOrder& order, const std::string& entry) const;
  Result<Exposure> ask_home(const PlacedContainer& guest, const ExposeOrder& order, const std::string& entry);
  Result<> begin(Exposure& e);
  Result<> end_here(Exposure e);
  Result<> forget(const Exposure& e);
  Result<> call(const std::string& peer, const peer::Request& request, bool& no_answer);
  void look_after(Exposure e);
  bool due(const Exposure& e);
  void tell_again(Exposure e);
  Result<std::vector<network::ExposedAddress>> addresses_now(const Exposure& e) const;

  const Services& services_;
  Placements& placements_;
  Exposures& exposures_;
  const TunnelPaths& paths_;
  Mutex mu_;
  std::map<std::string, Clock::time_point> next_try_ GUARDED_BY(mu_);  // by key
};

}  // namespace transship::migrate
