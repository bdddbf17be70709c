// Every move that this node takes part in at the moment, as source or as destination.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/thread.h"
#include "migrate/destination.h"
#include "migrate/event_feed.h"
#include "migrate/resumed_source.h"
#include "migrate/source.h"

namespace transship::migrate {

// Thread-safe. Owns a thread per source move and one that expires reservations and buries what has ended.
class MoveTable {
 public:
  explicit MoveTable(Services& services);
  // Calls off what is not decided, waits for every move to end.
  ~MoveTable();

  // ---- source
  struct Started {
    std::string move_id;
    std::shared_ptr<EventFeed> feed;
  };
  // kAlreadyExists: that container is on its way already (says which move). Other errors come as events.
  Result<Started> start(SourceRequest request);
  // kNotFound: no such move runs here. False: too late, it is committed.
  Result<bool> cancel(const std::string& move_id, const std::string& reason);
  size_t running() const;

  // ---- destination
  Result<std::shared_ptr<DestinationMove>> reserve(const SessionPeer& source, const peer::ReserveRequest& request);
  // Of a daemon that was killed: DestinationMove::resume() or ResumedSource; before anybody can ask for it.
  Result<> resume(const std::string& move_id, const journal::ResumeFile& facts);
  // Only moves of that peer are found: another pinned peer's are none of its business.
  std::shared_ptr<DestinationMove> find(const std::string& move_id, const std::string& peer) const;
  // What a destination is told that has lost its session: never a guess.
  // Of a move that somebody in this daemon works on, or that the journal knows. kNotFound.
  Result<Standing> standing(const std::string& move_id) const;
  // The operator's decision, where nothing else can bring one: see risk_of(). Returns when it was carried out.
  Result<> resolve(const std::string& move_id, const OperatorsWord& word);
  Result<peer::Decision> decision(const std::string& move_id, const std::string& peer);
  // A source takes back what it has asked for, as far as that can be: what becomes of it. kNotFound: no such move of
  // that peer's.
  Result<peer::Decision> withdraw(const std::string& move_id, const std::string& peer);
  // How a move of that peer's that find() does not know any more ended here: the source may not have heard of it.
  // kNotFound: no such move. kCorrupt: committed, and lost. kCancelled: aborted.
  Result<> ended_here(const std::string& move_id, const std::string& peer) const;
  std::vector<std::shared_ptr<DestinationMove>> destinations() const;

 private:
  struct SourceEntry {
    std::string container;  // "podman:ID"
    std::string name;       // "podman:redis", for people
    std::string peer;
    std::unique_ptr<SourceMove> move;
    std::shared_ptr<EventFeed> feed;
    bool ended = false;   // run() has returned
    bool buried = false;  // its thread is through
    Thread thread;
  };
  void run_source(SourceEntry& entry);
  void go_on_with(const std::string& move_id, journal::Leaving facts);
  void housekeeping();
  // Somebody here works on it, as its source. kUnauthorized: with another peer.
  Result<bool> works_on(const std::string& move_id, const std::string& peer) const;
  Result<> check_not_moving(const std::string& container) const REQUIRES(mu_);

  Services& services_;
  Cancel stop_;
  mutable Mutex mu_;
  std::map<std::string, std::unique_ptr<SourceEntry>> sources_ GUARDED_BY(mu_);
  std::map<std::string, std::shared_ptr<DestinationMove>> destinations_ GUARDED_BY(mu_);
  std::map<std::string, std::unique_ptr<ResumedSource>> resumed_ GUARDED_BY(mu_);
  Thread housekeeper_;
};

// Ten hex digits: short enough to type, long enough never to come twice.
std::string new_move_id();

}  // namespace transship::migrate
