// Exposes ports of containers: `transship expose`, and what nodes tell each other about it.
//
// The container's home has the say. It tells the entry which port leads to which of its containers; the node that has
// the container now, and the entry (that it is to end), may ask it. Nobody else.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "migrate/exposures.h"
#include "migrate/http_entries.h"
#include "migrate/moving_notice.h"
#include "migrate/placements.h"
#include "migrate/services.h"
#include "proto/peer.pb.h"

namespace transship::migrate {

struct ExposeOrder {
  std::string container;  // NAME, podman:NAME, runc:ID
  uint32_t container_port = 0;
  std::string protocol = "tcp";
  std::string node;         // the entry: this node, or a peer
  uint32_t port = 0;        // of the entry; 0: as the container's
  std::string health = {};  // http: path of checks; empty: a connection is enough
};

// What is to end.
struct EndOrder {
  std::string protocol = "tcp";
  std::string node;
  uint32_t port = 0;
  std::string container = {};  // http: only this one; empty: all that are known here
};

// Thread-safe. Every call ends within some seconds for each node that it asks.
class Exposer final : public MovingListener {
 public:
  // All of them outlive this object. `http` may be null: then there are no entries of that kind on this node.
  Exposer(const Services& services, Placements& placements, Exposures& exposures, const TunnelPaths& paths,
          HttpEntries* http = nullptr)
      : services_(services), placements_(placements), exposures_(exposures), paths_(paths), http_(http) {}

  // Where its home is here, or itself. kNotFound: no such container or node; kAlreadyExists: the port is taken;
  // kUnavailable: no tunnel, or no answer; kRefused: it has no address. On an error nothing is left, or will be once
  // the entry answers again.
  Result<Exposure> expose(const ExposeOrder& order);
  // On the container's home or on the entry. kNotFound. True: it gets no new requests, and goes when those that it has
  // have ended.
  Result<bool> end(const EndOrder& order);
  std::vector<Exposure> all() const { return exposures_.all(); }
  // And how each is, see state_of(): of HTTP entries elsewhere as they say it now, a second and a half for each at
  // most.
  std::vector<std::pair<Exposure, std::string>> list();
  // "azure": how that node is called here; empty for one that is no peer.
  std::string node_with(const std::string& fingerprint) const;
  // Where it is now, as far as its home knows; empty on another node.
  std::string place_of(const Exposure& e) const;

  // As the home: from the node that has a container, or from the entry.
  Result<> asked(const std::string& peer, const peer::ExposeRequest& request);
  // As the entry: from the home, or from the node that the home has named as the next one. True, when it was asked to
  // end: it still has requests.
  Result<bool> told(const std::string& peer, const peer::EntryRequest& request);

  // From the source of a move: the container is about to stand still, or that is over. Its home hears of it, and the
  // HTTP entries that lead to it. Some seconds at most; what does not answer is not waited for.
  void moving(const network::CutoverFacts& facts, bool ended) override;
  // As the home: from the node that has the container.
  Result<> told_moving(const std::string& peer, const peer::MovingRequest& request);
  // As the entry: from the home.
  Result<> told_pause(const std::string& peer, const peer::PauseRequest& request);
  // "open", "waiting", "ending"; of http entries of this node "up", "down", "paused", "draining".
  std::string state_of(const Exposure& e) const;
  // As the entry, for the home that has told of it.
  std::string state_for(const std::string& peer, const peer::EntryRequest& request) const;
  // What HTTP entries of this node lack, a sentence each.
  std::vector<std::string> missing_http() const;
  // HTTP entries of this node. Twice a second.
  void keep_up_http();
  // As the home: asks entries whether requests of those that are ending still run. Every second.
  void keep_up_draining();

  // Ends what belongs to containers and peers that are gone, tells entries what they have not heard. Now and then.
  void keep_up();

  // ---- for EntryHandover
  // `may_know`: there was no answer, so the entry may have heard it. True: it still has requests.
  Result<bool> tell_entry(const Exposure& e, bool& may_know);
  // Is there a tunnel that ports can be exposed through? kUnavailable says why not.
  Result<> check_way(const std::string& peer) const;
  // As the home: the container has gone to `e.next`, with another address.
  Result<> give(Exposure e);

 private:
  Result<std::string> fingerprint_of(const std::string& node) const;
  Result<> check_order(const ExposeOrder& order) const;
  Result<> check_http(const Exposure& e) const;
  Result<bool> end_one(const Exposure& e);
  Result<> take_in(const std::string& peer, const Exposure& e, const std::optional<Exposure>& known);
  Result<> bring_up(const Exposure& e);
  Result<bool> drain(Exposure e);
  void pause_entries(const std::string& container, bool paused);
  Result<Exposure> at_home(const ExposeOrder& order, const std::string& entry) const;
  Result<Exposure> ask_home(const PlacedContainer& guest, const ExposeOrder& order, const std::string& entry);
  Result<> begin(Exposure& e);
  Result<bool> end_here(Exposure e);
  Result<> forget(const Exposure& e);
  std::string ask_state(const Exposure& e);
  Result<peer::Reply> call(const std::string& peer, const peer::Request& request, milliseconds limit, bool& no_answer);
  void look_after(Exposure e);
  bool due(const Exposure& e);
  void tell_again(Exposure e);
  Result<std::vector<network::ExposedAddress>> addresses_now(const Exposure& e) const;

  const Services& services_;
  Placements& placements_;
  Exposures& exposures_;
  const TunnelPaths& paths_;
  HttpEntries* const http_;
  Mutex mu_;
  std::map<std::string, Clock::time_point> next_try_ GUARDED_BY(mu_);  // by key
  // By its id at home: who has said that it moves, and what it is called. Who has said so may say that it is over, when
  // somebody else has it already.
  std::map<std::string, std::pair<std::string, std::string>> moving_ GUARDED_BY(mu_);
};

}  // namespace transship::migrate
