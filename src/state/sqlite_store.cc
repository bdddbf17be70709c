#include <algorithm>

#include "base/mutex.h"
#include "base/text.h"
#include "base/wall_clock.h"
#include "state/sqlite.h"
#include "state/store.h"

namespace transship::state {
namespace {

constexpr int64_t kSchemaVersion = 5;

// Exclusive from the first read on: two daemons on one file would each believe in their own moves. NORMAL: after a
// power cut the newest changes may be missing, but the file is whole; what must not be missing is written with FULL.
constexpr const char* kSetup =
    "PRAGMA locking_mode=EXCLUSIVE;"
    "PRAGMA journal_mode=WAL;"
    "PRAGMA synchronous=NORMAL;"
    "PRAGMA foreign_keys=ON;"
    "PRAGMA trusted_schema=OFF;";

constexpr const char* kSchema = R"(
CREATE TABLE peers(
  name TEXT PRIMARY KEY, address TEXT NOT NULL, fingerprint TEXT NOT NULL UNIQUE, added INTEGER NOT NULL) STRICT;
CREATE TABLE moves(
  id TEXT PRIMARY KEY, container TEXT NOT NULL, engine TEXT NOT NULL, source TEXT NOT NULL, destination TEXT NOT NULL,
  role TEXT NOT NULL, state TEXT NOT NULL, phase TEXT NOT NULL, started INTEGER NOT NULL, ended INTEGER NOT NULL,
  error TEXT NOT NULL, summary BLOB NOT NULL) STRICT;
CREATE INDEX moves_by_start ON moves(started);
CREATE TABLE decisions(
  move_id TEXT PRIMARY KEY, decision INTEGER NOT NULL CHECK(decision IN (1, 2)), decided INTEGER NOT NULL) STRICT;
CREATE TABLE events(
  move_id TEXT NOT NULL, n INTEGER NOT NULL, event BLOB NOT NULL, PRIMARY KEY(move_id, n)) STRICT, WITHOUT ROWID;
PRAGMA user_version=1;
)";

// What each schema version added, from 2 on.
constexpr const char* kSchema2 = R"(
CREATE TABLE tunnel_ends(
  peer TEXT PRIMARY KEY REFERENCES peers(name) ON DELETE CASCADE, public_key BLOB NOT NULL UNIQUE, host TEXT NOT NULL,
  port INTEGER NOT NULL) STRICT;
PRAGMA user_version=2;
)";
constexpr const char* kSchema3 = R"(
CREATE TABLE tunnel_numbers(
  peer TEXT PRIMARY KEY REFERENCES peers(name) ON DELETE CASCADE, number INTEGER NOT NULL UNIQUE) STRICT;
CREATE TABLE placed(key TEXT PRIMARY KEY, facts TEXT NOT NULL) STRICT;
PRAGMA user_version=3;
)";

constexpr const char* kSchema4 = R"(
CREATE TABLE exposed(key TEXT PRIMARY KEY, facts TEXT NOT NULL) STRICT;
PRAGMA user_version=4;
)";

constexpr const char* kSchema5 = R"(
CREATE TABLE copies(key TEXT PRIMARY KEY, facts TEXT NOT NULL) STRICT;
PRAGMA user_version=5;
)";

constexpr const char* kMoveColumns =
    "id, container, engine, source, destination, role, state, phase, started, ended, error";

Move move_of(const Statement& s) {
  return {.id = s.text(0),
          .container = s.text(1),
          .engine = s.text(2),
          .from = s.text(3),
          .to = s.text(4),
          .role = s.text(5),
          .state = s.text(6),
          .phase = s.text(7),
          .started_ms = s.number(8),
          .ended_ms = s.number(9),
          .error = s.text(10),
          .summary = {}};
}

Peer peer_of(const Statement& s) { return {s.text(0), s.text(1), s.text(2), s.number(3)}; }

class SqliteStore final : public Store {
 public:
  explicit SqliteStore(Database db) : db_(std::move(db)) {}
  Result<> prepare();

  Result<> add_peer(const Peer& peer) override;
  Result<> remove_peer(const std::string& name) override;
  Result<> set_peer_address(const std::string& name, const std::string& address) override;
  Result<std::vector<Peer>> peers() override;
  Result<Peer> peer(const std::string& name) override;
  Result<> put_tunnel_end(const TunnelEnd& end) override;
  Result<std::vector<TunnelEnd>> tunnel_ends() override;
  Result<unsigned> tunnel_number(const std::string& peer) override;
  Result<> put_placed(const Placed& placed) override;
  Result<> remove_placed(const std::string& key) override;
  Result<std::vector<Placed>> placed() override;
  Result<> put_exposed(const Exposed& exposed) override;
  Result<> remove_exposed(const std::string& key) override;
  Result<std::vector<Exposed>> exposed() override;
  Result<> put_copy(const Copy& copy) override;
  Result<> remove_copy(const std::string& path) override;
  Result<std::vector<Copy>> copies() override;
  Result<> put_move(const Move& move, bool durable) override;
  Result<Move> move(const std::string& id) override;
  Result<std::vector<Move>> moves(size_t newest) override;
  Result<std::vector<Move>> unfinished_moves() override;
  Result<> decide(const std::string& move_id, Decision decision) override;
  Result<> abort_after_all(const std::string& move_id) override;
  Result<std::optional<Decision>> decision(const std::string& move_id) override;
  Result<uint64_t> add_event(const std::string& move_id, std::string_view event) override;
  Result<std::vector<Event>> events(const std::string& move_id, uint64_t after) override;
  Result<> prune_moves(size_t keep) override;

 private:
  // What commits while this lives is on disk, with everything before it, when the commit returns.
  class Durably {
   public:
    explicit Durably(Database& db) : db_(db), on_(db.run("PRAGMA synchronous=FULL")) {}
    ~Durably() { (void)db_.run("PRAGMA synchronous=NORMAL"); }
    Durably(const Durably&) = delete;
    Durably& operator=(const Durably&) = delete;
    const Result<>& on() const { return on_; }

   private:
    Database& db_;
    Result<> on_;
  };

  Result<> put_facts(const std::string& table, const std::string& key, const std::string& facts,
                     const std::string& what);
  Result<> remove_facts(const std::string& table, const std::string& key, const std::string& what);
  template <class Row>
  Result<std::vector<Row>> all_facts(const std::string& table, const std::string& what);
  Result<std::vector<Peer>> peers_locked() REQUIRES(mu_);
  Result<std::vector<TunnelEnd>> tunnel_ends_locked() REQUIRES(mu_);
  std::unexpected<Error> no_peer_locked(const std::string& name) REQUIRES(mu_);
  Result<std::vector<Move>> query_moves(const std::string& rest, int64_t limit);
  Result<std::optional<Decision>> decision_locked(const std::string& move_id) REQUIRES(mu_);

  Mutex mu_;
  Database db_ GUARDED_BY(mu_);
};

Result<> SqliteStore::prepare() {
  MutexLock lock(mu_);
  TS_TRY(db_.run(kSetup));
  int64_t version = 0;
  {
    // Takes the lock, and notices a file that is no database.
    TS_TRY_ASSIGN(auto s, Statement::prepare(db_, "PRAGMA user_version", "read the schema version"));
    TS_TRY(s.next());
    version = s.number(0);
  }
  if (version > kSchemaVersion)
    return std::unexpected(
        Error(Errc::kRefused, fmt::format("{} was written by a newer transship (schema {}; this one knows {})",
                                          db_.path(), version, kSchemaVersion))
            .with_remedy("install that release again"));
  {
    TS_TRY_ASSIGN(auto s, Statement::prepare(db_, "PRAGMA quick_check(1)", "check"));
    TS_TRY_ASSIGN(bool row, s.next());
    if (!row || s.text(0) != "ok") return db_.failure(SQLITE_CORRUPT, fmt::format("check ({})", row ? s.text(0) : ""));
  }
  Durably durably(db_);
  TS_TRY(durably.on());
  TS_TRY_ASSIGN(auto transaction, Transaction::begin(db_));
  if (version < 1) TS_TRY(db_.run(kSchema));
  if (version < 2) TS_TRY(db_.run(kSchema2));
  if (version < 3) TS_TRY(db_.run(kSchema3));
  if (version < 4) TS_TRY(db_.run(kSchema4));
  if (version < 5) TS_TRY(db_.run(kSchema5));
  return transaction.commit();
}

Result<> SqliteStore::add_peer(const Peer& peer) {
  MutexLock lock(mu_);
  TS_TRY_ASSIGN(auto known, peers_locked());
  for (const Peer& p : known) {
    if (p.name == peer.name)
      return fail(Errc::kAlreadyExists, "there is a peer {} already, at {} with the key {}", p.name, p.address,
                  p.fingerprint);
    if (p.fingerprint == peer.fingerprint)
      return fail(Errc::kAlreadyExists, "the key {} belongs to the peer {} already", p.fingerprint, p.name);
  }
  Durably durably(db_);
  TS_TRY(durably.on());
  TS_TRY_ASSIGN(auto s, Statement::prepare(db_, "INSERT INTO peers(name, address, fingerprint, added) VALUES(?,?,?,?)",
                                           fmt::format("store the peer {}", peer.name)));
  return s.bind(peer.name).bind(peer.address).bind(peer.fingerprint).bind(unix_ms_now()).run();
}

Result<> SqliteStore::remove_peer(const std::string& name) {
  MutexLock lock(mu_);
  Durably durably(db_);
  TS_TRY(durably.on());
  TS_TRY_ASSIGN(auto s,
                Statement::prepare(db_, "DELETE FROM peers WHERE name=?", fmt::format("remove the peer {}", name)));
  TS_TRY(s.bind(name).run());
  if (db_.changed() == 0) return no_peer_locked(name);
  return {};
}

Result<> SqliteStore::set_peer_address(const std::string& name, const std::string& address) {
  MutexLock lock(mu_);
  Durably durably(db_);
  TS_TRY(durably.on());
  TS_TRY_ASSIGN(auto s, Statement::prepare(db_, "UPDATE peers SET address=? WHERE name=?",
                                           fmt::format("change the address of {}", name)));
  TS_TRY(s.bind(address).bind(name).run());
  if (db_.changed() == 0) return no_peer_locked(name);
  return {};
}

Result<std::vector<Peer>> SqliteStore::peers_locked() {
  TS_TRY_ASSIGN(auto s, Statement::prepare(db_, "SELECT name, address, fingerprint, added FROM peers ORDER BY name",
                                           "list the peers"));
  std::vector<Peer> out;
  while (true) {
    TS_TRY_ASSIGN(bool row, s.next());
    if (!row) return out;
    out.push_back(peer_of(s));
  }
}

std::unexpected<Error> SqliteStore::no_peer_locked(const std::string& name) {
  std::vector<std::string> names;
  if (auto known = peers_locked()) {
    for (const Peer& p : *known) names.push_back(p.name);
  }
  return std::unexpected(
      Error(Errc::kNotFound, names.empty() ? fmt::format("there is no peer {}: this node has none", name)
                                           : fmt::format("there is no peer {}; there are: {}", name, join(names, ", ")))
          .with_remedy("transship peer add NAME ADDRESS"));
}

Result<std::vector<Peer>> SqliteStore::peers() {
  MutexLock lock(mu_);
  return peers_locked();
}

Result<Peer> SqliteStore::peer(const std::string& name) {
  MutexLock lock(mu_);
  TS_TRY_ASSIGN(auto s, Statement::prepare(db_, "SELECT name, address, fingerprint, added FROM peers WHERE name=?",
                                           fmt::format("look up the peer {}", name)));
  TS_TRY_ASSIGN(bool row, s.bind(name).next());
  if (!row) return no_peer_locked(name);
  return peer_of(s);
}

Result<> SqliteStore::put_tunnel_end(const TunnelEnd& end) {
  MutexLock lock(mu_);
  TS_TRY_ASSIGN(auto known, peers_locked());
  if (std::ranges::find(known, end.peer, &Peer::name) == known.end()) return no_peer_locked(end.peer);
  TS_TRY_ASSIGN(auto ends, tunnel_ends_locked());
  for (const TunnelEnd& other : ends) {
    if (other.peer != end.peer && other.public_key == end.public_key)
      return fail(Errc::kAlreadyExists, "that tunnel key belongs to the peer {} already", other.peer);
  }
  TS_TRY_ASSIGN(auto s, Statement::prepare(db_, "INSERT OR REPLACE INTO tunnel_ends VALUES(?,?,?,?)",
                                           fmt::format("store the tunnel key of {}", end.peer)));
  return s.bind(end.peer).bind_blob(end.public_key).bind(end.host).bind(static_cast<int64_t>(end.port)).run();
}

Result<std::vector<TunnelEnd>> SqliteStore::tunnel_ends_locked() {
  TS_TRY_ASSIGN(auto s, Statement::prepare(db_, "SELECT peer, public_key, host, port FROM tunnel_ends ORDER BY peer",
                                           "list the peers' tunnel keys"));
  std::vector<TunnelEnd> out;
  while (true) {
    TS_TRY_ASSIGN(bool row, s.next());
    if (!row) return out;
    out.push_back({s.text(0), s.blob(1), s.text(2), static_cast<uint16_t>(s.number(3))});
  }
}

Result<std::vector<TunnelEnd>> SqliteStore::tunnel_ends() {
  MutexLock lock(mu_);
  return tunnel_ends_locked();
}

Result<unsigned> SqliteStore::tunnel_number(const std::string& peer) {
  MutexLock lock(mu_);
  auto what = fmt::format("number the tunnel to {}", peer);
  TS_TRY_ASSIGN(auto known, peers_locked());
  if (std::ranges::find(known, peer, &Peer::name) == known.end()) return no_peer_locked(peer);
  // The lowest that is free.
  TS_TRY_ASSIGN(auto insert, Statement::prepare(db_, R"(
INSERT OR IGNORE INTO tunnel_numbers SELECT ?1, min(n) FROM
  (SELECT 0 AS n UNION SELECT number + 1 FROM tunnel_numbers) WHERE n NOT IN (SELECT number FROM tunnel_numbers))",
                                                what));
  TS_TRY(insert.bind(peer).run());
  TS_TRY_ASSIGN(auto s, Statement::prepare(db_, "SELECT number FROM tunnel_numbers WHERE peer=?", what));
  TS_TRY_ASSIGN(bool row, s.bind(peer).next());
  if (!row) return fail(Errc::kInternal, "{}: there is none", what);
  return static_cast<unsigned>(s.number(0));
}

// ---- tables of a key and its facts

Result<> SqliteStore::put_facts(const std::string& table, const std::string& key, const std::string& facts,
                                const std::string& what) {
  MutexLock lock(mu_);
  Durably durably(db_);
  TS_TRY(durably.on());
  auto sql = fmt::format("INSERT OR REPLACE INTO {} VALUES(?,?)", table);
  TS_TRY_ASSIGN(auto s, Statement::prepare(db_, sql.c_str(), fmt::format("store {} {}", what, key)));
  return s.bind(key).bind(facts).run();
}

Result<> SqliteStore::remove_facts(const std::string& table, const std::string& key, const std::string& what) {
  MutexLock lock(mu_);
  auto sql = fmt::format("DELETE FROM {} WHERE key=?", table);
  TS_TRY_ASSIGN(auto s, Statement::prepare(db_, sql.c_str(), fmt::format("forget {} {}", what, key)));
  return s.bind(key).run();
}

// Each a pair of two texts.
template <class Row>
Result<std::vector<Row>> SqliteStore::all_facts(const std::string& table, const std::string& what) {
  MutexLock lock(mu_);
  auto sql = fmt::format("SELECT key, facts FROM {} ORDER BY key", table);
  TS_TRY_ASSIGN(auto s, Statement::prepare(db_, sql.c_str(), fmt::format("list {}s", what)));
  std::vector<Row> out;
  while (true) {
    TS_TRY_ASSIGN(bool row, s.next());
    if (!row) return out;
    out.push_back({s.text(0), s.text(1)});
  }
}

Result<> SqliteStore::put_placed(const Placed& p) { return put_facts("placed", p.key, p.facts, "placed container"); }
Result<> SqliteStore::remove_placed(const std::string& key) { return remove_facts("placed", key, "placed container"); }
Result<std::vector<Placed>> SqliteStore::placed() { return all_facts<Placed>("placed", "placed container"); }
Result<> SqliteStore::put_exposed(const Exposed& e) { return put_facts("exposed", e.key, e.facts, "exposed port"); }
Result<> SqliteStore::remove_exposed(const std::string& key) { return remove_facts("exposed", key, "exposed port"); }
Result<std::vector<Exposed>> SqliteStore::exposed() { return all_facts<Exposed>("exposed", "exposed port"); }
Result<> SqliteStore::put_copy(const Copy& c) { return put_facts("copies", c.path, c.facts, "volume copy"); }
Result<> SqliteStore::remove_copy(const std::string& path) { return remove_facts("copies", path, "volume copy"); }
Result<std::vector<Copy>> SqliteStore::copies() { return all_facts<Copy>("copies", "volume copy"); }

Result<> SqliteStore::put_move(const Move& move, bool durable) {
  if (move.summary.size() > kMaxSummaryBytes)
    return fail(Errc::kInvalidArgument, "the summary of move {} has {}, at most {} are kept", move.id,
                format_bytes(move.summary.size()), format_bytes(kMaxSummaryBytes));
  MutexLock lock(mu_);
  std::optional<Durably> durably;
  if (durable) {
    durably.emplace(db_);
    TS_TRY(durably->on());
  }
  TS_TRY_ASSIGN(auto s, Statement::prepare(db_, "INSERT OR REPLACE INTO moves VALUES(?,?,?,?,?,?,?,?,?,?,?,?)",
                                           fmt::format("store the move {}", move.id)));
  return s.bind(move.id)
      .bind(move.container)
      .bind(move.engine)
      .bind(move.from)
      .bind(move.to)
      .bind(move.role)
      .bind(move.state)
      .bind(move.phase)
      .bind(move.started_ms)
      .bind(move.ended_ms)
      .bind(move.error)
      .bind_blob(move.summary)
      .run();
}

Result<Move> SqliteStore::move(const std::string& id) {
  MutexLock lock(mu_);
  auto sql = fmt::format("SELECT {}, summary FROM moves WHERE id=?", kMoveColumns);
  TS_TRY_ASSIGN(auto s, Statement::prepare(db_, sql.c_str(), fmt::format("look up the move {}", id)));
  TS_TRY_ASSIGN(bool row, s.bind(id).next());
  if (!row)
    return std::unexpected(Error(Errc::kNotFound, fmt::format("this node knows of no move {}", id))
                               .with_remedy("transship moves lists those it knows"));
  Move m = move_of(s);
  m.summary = s.blob(11);
  return m;
}

Result<std::vector<Move>> SqliteStore::query_moves(const std::string& rest, int64_t limit) {
  MutexLock lock(mu_);
  auto sql = fmt::format("SELECT {} FROM moves {} ORDER BY started DESC, rowid DESC LIMIT ?", kMoveColumns, rest);
  TS_TRY_ASSIGN(auto s, Statement::prepare(db_, sql.c_str(), "list the moves"));
  s.bind(limit);
  std::vector<Move> out;
  while (true) {
    TS_TRY_ASSIGN(bool row, s.next());
    if (!row) return out;
    out.push_back(move_of(s));
  }
}

Result<std::vector<Move>> SqliteStore::moves(size_t newest) { return query_moves("", static_cast<int64_t>(newest)); }
Result<std::vector<Move>> SqliteStore::unfinished_moves() { return query_moves("WHERE ended=0", -1); }

Result<std::optional<Decision>> SqliteStore::decision_locked(const std::string& move_id) {
  TS_TRY_ASSIGN(auto s, Statement::prepare(db_, "SELECT decision FROM decisions WHERE move_id=?",
                                           fmt::format("look up the decision of move {}", move_id)));
  TS_TRY_ASSIGN(bool row, s.bind(move_id).next());
  if (!row) return std::nullopt;
  return static_cast<Decision>(s.number(0));  // 1 or 2: the table's CHECK
}

Result<> SqliteStore::decide(const std::string& move_id, Decision decision) {
  TS_CHECK(decision == Decision::kCommit || decision == Decision::kAbort);
  MutexLock lock(mu_);
  Durably durably(db_);
  TS_TRY(durably.on());
  {
    TS_TRY_ASSIGN(auto s, Statement::prepare(db_, "INSERT INTO decisions VALUES(?,?,?) ON CONFLICT(move_id) DO NOTHING",
                                             fmt::format("decide the move {}", move_id)));
    TS_TRY(s.bind(move_id).bind(static_cast<int64_t>(decision)).bind(unix_ms_now()).run());
    if (db_.changed() == 1) return {};
  }
  TS_TRY_ASSIGN(auto first, decision_locked(move_id));
  TS_CHECK(first.has_value(), "a decision is neither new nor there");
  if (*first == decision) return {};
  return fail(Errc::kAlreadyExists, "the move {} was decided already: {}, not {}", move_id, decision_name(*first),
              decision_name(decision));
}

Result<> SqliteStore::abort_after_all(const std::string& move_id) {
  MutexLock lock(mu_);
  Durably durably(db_);
  TS_TRY(durably.on());
  TS_TRY_ASSIGN(auto s, Statement::prepare(db_,
                                           "INSERT INTO decisions VALUES(?,?,?) ON CONFLICT(move_id) DO UPDATE "
                                           "SET decision=excluded.decision, decided=excluded.decided",
                                           fmt::format("abort the move {} after all", move_id)));
  return s.bind(move_id).bind(static_cast<int64_t>(Decision::kAbort)).bind(unix_ms_now()).run();
}

Result<std::optional<Decision>> SqliteStore::decision(const std::string& move_id) {
  MutexLock lock(mu_);
  return decision_locked(move_id);
}

Result<uint64_t> SqliteStore::add_event(const std::string& move_id, std::string_view event) {
  if (event.size() > kMaxEventBytes)
    return fail(Errc::kInvalidArgument, "an event of {} for move {}; at most {} are kept", format_bytes(event.size()),
                move_id, format_bytes(kMaxEventBytes));
  MutexLock lock(mu_);
  TS_TRY_ASSIGN(auto transaction, Transaction::begin(db_));
  int64_t n = 0;
  {
    TS_TRY_ASSIGN(auto s, Statement::prepare(db_, "SELECT coalesce(max(n), 0) + 1 FROM events WHERE move_id=?",
                                             "number an event"));
    TS_TRY(s.bind(move_id).next());
    n = s.number(0);
  }
  {
    TS_TRY_ASSIGN(auto s, Statement::prepare(db_, "INSERT INTO events VALUES(?,?,?)", "store an event"));
    TS_TRY(s.bind(move_id).bind(n).bind_blob(event).run());
  }
  {
    TS_TRY_ASSIGN(auto s, Statement::prepare(db_, "DELETE FROM events WHERE move_id=? AND n<=?", "drop old events"));
    TS_TRY(s.bind(move_id).bind(n - static_cast<int64_t>(kMaxEvents)).run());
  }
  TS_TRY(transaction.commit());
  return static_cast<uint64_t>(n);
}

Result<std::vector<Store::Event>> SqliteStore::events(const std::string& move_id, uint64_t after) {
  MutexLock lock(mu_);
  TS_TRY_ASSIGN(auto s, Statement::prepare(db_, "SELECT n, event FROM events WHERE move_id=? AND n>? ORDER BY n",
                                           fmt::format("read the events of move {}", move_id)));
  s.bind(move_id).bind(static_cast<int64_t>(std::min<uint64_t>(after, INT64_MAX)));
  std::vector<Event> out;
  while (true) {
    TS_TRY_ASSIGN(bool row, s.next());
    if (!row) return out;
    out.push_back({static_cast<uint64_t>(s.number(0)), s.blob(1)});
  }
}

Result<> SqliteStore::prune_moves(size_t keep) {
  MutexLock lock(mu_);
  TS_TRY_ASSIGN(auto transaction, Transaction::begin(db_));
  {
    TS_TRY_ASSIGN(
        auto s,
        Statement::prepare(db_,
                           "DELETE FROM moves WHERE ended<>0 AND id NOT IN (SELECT id FROM moves WHERE ended<>0 ORDER "
                           "BY started DESC, rowid DESC LIMIT ?)",
                           "forget old moves"));
    TS_TRY(s.bind(static_cast<int64_t>(keep)).run());
  }
  TS_TRY(db_.run("DELETE FROM events WHERE move_id NOT IN (SELECT id FROM moves)"));
  return transaction.commit();
}

}  // namespace

std::string_view decision_name(Decision decision) {
  switch (decision) {
    case Decision::kCommit: return "commit";
    case Decision::kAbort: return "abort";
    case Decision::kInvalid: break;
  }
  return "invalid";
}

Result<std::unique_ptr<Store>> open_sqlite_store(const std::string& path) {
  TS_TRY_ASSIGN(Database db, Database::open(path));
  auto store = std::make_unique<SqliteStore>(std::move(db));
  TS_TRY(store->prepare());
  return store;
}

}  // namespace transship::state
