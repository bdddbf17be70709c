// What a node must not forget: its peers, its moves, and the one decision of each move.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace transship::state {

struct Peer {
  std::string name;
  std::string address;      // "host:port"
  std::string fingerprint;  // "SHA256:…"
  int64_t added_ms = 0;     // UNIX time; set by the store
};

// Where a peer's end of the tunnel is, by its own word.
struct TunnelEnd {
  std::string peer;
  std::string public_key;  // 32 bytes
  std::string host;        // address of its host as seen from here; empty: not known
  uint16_t port = 0;
  bool operator==(const TunnelEnd&) const = default;
};

// A container that is not where its addresses are at home: on its home, and on the node where it is.
struct Placed {
  std::string key;    // who it is, wherever it goes (migrate/placements.h)
  std::string facts;  // JSON, migrate/placements.h
  bool operator==(const Placed&) const = default;
};

// A port of a node that leads to a container: on the entry, and on the container's home.
struct Exposed {
  std::string key;
  std::string facts;  // JSON, migrate/exposures.h
  bool operator==(const Exposed&) const = default;
};

// A directory of this host with the data of a volume: the one in use, or one that a move has left behind.
struct Copy {
  std::string path;
  std::string facts;  // JSON, migrate/volume_copies.h
  bool operator==(const Copy&) const = default;
};

struct Move {
  std::string id;
  std::string container;
  std::string engine;
  std::string from;
  std::string to;
  std::string role;   // "source", "destination"
  std::string state;  // "running", "done", "failed", "rolled-back", "cancelled", "in doubt"
  std::string phase;
  int64_t started_ms = 0;
  int64_t ended_ms = 0;  // 0: not yet
  std::string error;
  std::string summary;  // bytes; the node's own encoding
};

enum class Decision { kInvalid = 0, kCommit = 1, kAbort = 2 };
std::string_view decision_name(Decision decision);

// Thread-safe. Every call is one transaction.
class Store {
 public:
  virtual ~Store() = default;

  // kAlreadyExists: the name, or the fingerprint under another name. Durable when it returns.
  virtual Result<> add_peer(const Peer& peer) = 0;
  virtual Result<> remove_peer(const std::string& name) = 0;                                   // kNotFound
  virtual Result<> set_peer_address(const std::string& name, const std::string& address) = 0;  // kNotFound
  virtual Result<std::vector<Peer>> peers() = 0;                                               // by name
  virtual Result<Peer> peer(const std::string& name) = 0;  // kNotFound names the ones there are

  // Inserts it, or replaces the one of that peer. kNotFound: no such peer. kAlreadyExists: another peer has that key.
  virtual Result<> put_tunnel_end(const TunnelEnd& end) = 0;
  virtual Result<std::vector<TunnelEnd>> tunnel_ends() = 0;  // by peer; they go with their peers

  // Which of this node's tunnels leads to it: given when it is asked for first, the lowest that is free. kNotFound.
  virtual Result<unsigned> tunnel_number(const std::string& peer) = 0;

  // Inserts it, or replaces the one with that key. Durable when it returns.
  virtual Result<> put_placed(const Placed& placed) = 0;
  virtual Result<> remove_placed(const std::string& key) = 0;  // absent is fine
  virtual Result<std::vector<Placed>> placed() = 0;            // by key

  // The same for exposed ports.
  virtual Result<> put_exposed(const Exposed& exposed) = 0;
  virtual Result<> remove_exposed(const std::string& key) = 0;
  virtual Result<std::vector<Exposed>> exposed() = 0;

  // The same for copies of volumes; by path.
  virtual Result<> put_copy(const Copy& copy) = 0;
  virtual Result<> remove_copy(const std::string& path) = 0;
  virtual Result<std::vector<Copy>> copies() = 0;

  // Inserts or replaces it by its id. `durable`: on disk when it returns; otherwise a power cut may take it back, but
  // never what came after it without it.
  virtual Result<> put_move(const Move& move, bool durable) = 0;
  virtual Result<Move> move(const std::string& id) = 0;        // kNotFound
  virtual Result<std::vector<Move>> moves(size_t newest) = 0;  // newest first, without summaries
  virtual Result<std::vector<Move>> unfinished_moves() = 0;    // ended_ms == 0

  // Once per move: on disk when it returns. The same decision again is fine; another one is kAlreadyExists, and the
  // first one stands.
  virtual Result<> decide(const std::string& move_id, Decision decision) = 0;
  // *Abort*, whatever stands: the only other one who could have run the container has said that it never will
  // (docs/design/0010-handover.md, rule 5). On disk when it returns.
  virtual Result<> abort_after_all(const std::string& move_id) = 0;
  virtual Result<std::optional<Decision>> decision(const std::string& move_id) = 0;

  // Numbers them from 1; the oldest go once there are more than kMaxEvents.
  virtual Result<uint64_t> add_event(const std::string& move_id, std::string_view event) = 0;
  struct Event {
    uint64_t n = 0;
    std::string bytes;
  };
  virtual Result<std::vector<Event>> events(const std::string& move_id, uint64_t after) = 0;
  // Forgets the oldest finished moves, with their events, beyond the newest `keep`. Decisions stay: they are tiny, and
  // a destination that was cut off may ask for one much later.
  virtual Result<> prune_moves(size_t keep) = 0;
};

inline constexpr size_t kMaxEvents = 2000;
inline constexpr size_t kMaxEventBytes = 64U << 10;
inline constexpr size_t kMaxSummaryBytes = 1U << 20;

// One SQLite file (0600), one process: a second one that opens it gets kUnavailable. A damaged file is kCorrupt.
Result<std::unique_ptr<Store>> open_sqlite_store(const std::string& path);

}  // namespace transship::state
