#include "node/recovery.h"

#include <sys/mount.h>

#include <filesystem>

#include "base/log.h"
#include "base/text.h"
#include "base/wall_clock.h"
#include "gate/gate.h"
#include "migrate/decision_register.h"
#include "migrate/give_back.h"
#include "migrate/handover.h"
#include "migrate/resume_file.h"
#include "migrate/survey.h"
#include "network/hold.h"
#include "network/moved_connections.h"
#include "sys/file.h"

namespace transship::node {
namespace {

constexpr milliseconds kForgetLimit{10'000};
constexpr milliseconds kArbiterLimit{5000};

void remove_directory(const std::string& path) {
  while (::umount2(path.c_str(), MNT_DETACH) == 0) TS_LOG_INFO("recovery: unmounted {}", path);
  (void)::rmdir(path.c_str());
}

// kInvalid: not decided. An error of the journal is no answer: who takes it for one would thaw what was committed.
Result<state::Decision> decided(migrate::Services& services, const std::string& move_id) {
  TS_TRY_ASSIGN(auto decision, services.store->decision(move_id));
  return decision.value_or(state::Decision::kInvalid);
}

// Restore was said, and nobody has heard what was decided: the move finds it out by itself, however long that takes.
bool undecided(migrate::Services& services, const Unfinished& move) {
  if (!move.facts.has_leaving()) return false;
  auto decision = services.store->decision(move.move_id);
  return !decision || !*decision;
}

// What is to arrive here is either undone or gone on with, by the move itself; a container that leaves is given back
// unless it belongs to its destination already, or may.
Result<bool> can_go_on(migrate::Services& services, const Unfinished& move) {
  if (move.facts.has_arriving()) return true;
  if (!move.facts.has_leaving()) return false;
  TS_TRY_ASSIGN(auto decision, decided(services, move.move_id));
  bool by_journal = move.facts.leaving().arbiter().empty();
  if (decision == state::Decision::kInvalid && by_journal)
    return !services.store->decide(move.move_id, state::Decision::kAbort);
  return decision != state::Decision::kAbort;
}

Result<std::vector<Unfinished>> sort_out_directories(migrate::Services& services) {
  std::vector<Unfinished> unfinished;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(services.settings.run_dir + "/moves", error)) {
    Unfinished move{entry.path().filename(), {}};
    if (auto facts = migrate::read_resume_file(entry.path()); facts) move.facts = std::move(*facts);
    bool plain = is_plain_name(move.move_id);
    TS_TRY_ASSIGN(bool goes_on, plain ? can_go_on(services, move) : Result<bool>(false));
    if (goes_on)
      unfinished.push_back(std::move(move));
    else
      remove_directory(entry.path());
  }
  // Layers of images on their way; nobody goes on with those.
  (void)sys::remove_tree(services.settings.state_dir + "/moves");
  return unfinished;
}

// Its tasks are dead with their host, and the destination has it: the engine must not start a second one.
void keep_stopped(migrate::Services& services, const state::Move& move) {
  auto found = migrate::find_container(services, move.container);
  if (!found || found->container.pid > 0) return;
  if (auto r = found->engine->forget(found->container.id, /*keep=*/true, Deadline::in(kForgetLimit)); !r)
    TS_LOG_WARN("recovery: mig={} the stopped source container: {}", move.id, r.error().message());
}

// The host went down, and what the move had got to with it: by an arbiter it may have been decided, or be decided yet.
// What stands; kInvalid: the journal decides.
Result<state::Decision> ask_arbiter(migrate::Services& services, const state::Move& move) {
  auto found = migrate::find_container(services, move.container);
  // Its tasks have outlived the daemon, and so would the file that says that Restore was said.
  bool runs = found && found->container.pid > 0;
  if (!services.arbiter || runs) return state::Decision::kInvalid;
  TS_TRY_ASSIGN(Cancel never, Cancel::create());
  auto deadline = Deadline::in(kArbiterLimit);
  TS_TRY_ASSIGN(auto decisions, migrate::DecisionRegister::of_unknown(*services.store, services.arbiter.get(), move.id,
                                                                      deadline, never));
  TS_TRY_ASSIGN(auto stands, decisions->decide(state::Decision::kAbort, deadline, never));
  TS_TRY(decisions->keep(stands));
  return stands;
}

// An error: it stands still, and nobody says now what is to become of it. The next start tries again.
Result<> close_source(migrate::Services& services, state::Move& move, state::Decision decision) {
  if (decision == state::Decision::kInvalid) {
    TS_TRY_ASSIGN(decision, ask_arbiter(services, move));
  }
  bool committed = decision == state::Decision::kCommit;
  move.state = committed ? "done" : "rolled-back";
  if (committed) {
    keep_stopped(services, move);
    move.error = fmt::format("the daemon ended after the decision: {} belongs to {}", move.container, move.to);
    return {};
  }
  if (auto r = services.store->decide(move.id, state::Decision::kAbort); !r) {
    // Before Restore was said nobody else could run it.
    if (migrate::state_in_phase(move.phase) == migrate::SourceState::kAsked) return r;
    TS_LOG_ERROR("recovery: mig={} journal: {}", move.id, r.error().message());
  }
  move.error = "the daemon ended during this move";
  if (!migrate::give_back(services, move))
    move.error += fmt::format(
        ", and {} does not run here: with the host went its memory, not its files. Its engine can start it anew",
        move.container);
  return {};
}

// Without its directory a container that had arrived is gone as well: the host went down.
void close_destination(const migrate::Services& services, state::Move& move, state::Decision decision) {
  bool committed = decision == state::Decision::kCommit;
  // With *abort* in the journal it was being undone, as its source wished.
  bool parked = migrate::destination_state(move.phase) == migrate::DestinationState::kParked &&
                decision != state::Decision::kAbort;
  move.state = committed || parked ? "failed" : "rolled-back";
  move.error =
      committed ? fmt::format("{} went down while {} was fetching its memory: it is lost", services.settings.node,
                              move.container)
      : parked  ? fmt::format("{} went down before {} ran there: {} has it, or, if it had decided already, it is lost",
                              services.settings.node, move.container, move.from)
                : "the daemon ended during this move";
}

void close_move(migrate::Services& services, state::Move move) {
  auto decision = decided(services, move.id);
  auto closed = decision ? Result<>() : Result<>(std::unexpected(decision.error()));
  if (closed && move.role == "source") closed = close_source(services, move, *decision);
  if (!closed) {
    TS_LOG_ERROR("recovery: mig={} {}: it is not known what was decided: {}", move.id, move.container,
                 closed.error().message());
    return;
  }
  if (move.role != "source") close_destination(services, move, *decision);
  move.summary.clear();
  move.ended_ms = unix_ms_now();
  if (auto r = services.store->put_move(move, true); !r)
    TS_LOG_ERROR("recovery: mig={} journal: {}", move.id, r.error().message());
}

}  // namespace

Result<std::vector<Unfinished>> recover(migrate::Services& services) {
  if (auto n = network::remove_stale_holds(); !n) TS_LOG_WARN("recovery: {}", n.error().message());
  if (auto n = gate::remove_stale_gates(); !n) TS_LOG_WARN("recovery: {}", n.error().message());
  TS_TRY_ASSIGN(auto moves, services.store->unfinished_moves());
  TS_TRY_ASSIGN(auto unfinished, sort_out_directories(services));
  for (auto& move : moves) {
    bool goes_on = std::ranges::any_of(unfinished, [&](const auto& u) { return u.move_id == move.id; });
    if (!goes_on) close_move(services, std::move(move));
  }
  collect_garbage(services);
  return unfinished;
}

void resume(migrate::Services& services, migrate::MoveTable& moves, const std::vector<Unfinished>& unfinished) {
  for (const auto& u : unfinished) {
    auto resumed = moves.resume(u.move_id, u.facts);
    if (resumed) continue;
    TS_LOG_ERROR("recovery: mig={} cannot be gone on with: {}", u.move_id, resumed.error().message());
    // The next start tries again. Frozen is safe.
    if (undecided(services, u)) continue;
    remove_directory(services.settings.run_dir + "/moves/" + u.move_id);
    if (auto move = services.store->move(u.move_id); move && move->ended_ms == 0)
      close_move(services, std::move(*move));
  }
}

void collect_garbage(migrate::Services& services) {
  auto tables = network::list_moved_connections();
  if (!tables || tables->empty()) return;
  std::vector<std::string> ids;
  for (const auto& engine : services.engines) {
    auto list = engine->list(true);
    if (!list) return;  // not knowing is not a reason to remove
    for (const auto& c : *list) ids.push_back(c.id);
  }
  for (const auto& table : *tables) {
    bool known = std::ranges::any_of(ids, [&](const auto& id) { return network::table_key(id) == table; });
    if (!known) (void)network::remove_moved_connections(table);
  }
}

}  // namespace transship::node
