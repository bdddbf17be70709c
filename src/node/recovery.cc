#include "node/recovery.h"

#include <sys/mount.h>

#include <filesystem>

#include "base/log.h"
#include "base/text.h"
#include "base/wall_clock.h"
#include "criu/rescue.h"
#include "gate/gate.h"
#include "migrate/handover.h"
#include "migrate/resume_file.h"
#include "migrate/shut_network.h"
#include "migrate/survey.h"
#include "network/hold.h"
#include "network/moved_connections.h"
#include "sys/cgroup.h"
#include "sys/file.h"
#include "sys/throttle.h"

namespace transship::node {
namespace {

constexpr milliseconds kForgetLimit{10'000};

void remove_directory(const std::string& path) {
  while (::umount2(path.c_str(), MNT_DETACH) == 0) TS_LOG_INFO("recovery: unmounted {}", path);
  (void)::rmdir(path.c_str());
}

// kInvalid: not decided. An error of the journal is no answer: who takes it for one would thaw what was committed.
Result<state::Decision> decided(migrate::Services& services, const std::string& move_id) {
  TS_TRY_ASSIGN(auto decision, services.store->decision(move_id));
  return decision.value_or(state::Decision::kInvalid);
}

// What is to arrive here is either undone or gone on with, by the move itself; a container that leaves is given back
// unless it belongs to its destination already.
Result<bool> can_go_on(migrate::Services& services, const Unfinished& move) {
  if (move.facts.has_arriving()) return true;
  if (!move.facts.has_leaving()) return false;
  TS_TRY_ASSIGN(auto decision, decided(services, move.move_id));
  return decision == state::Decision::kCommit;
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

// What CRIU locked, should it have been killed as well, and what the daemon shut.
void open_network(const sys::Cgroup& cgroup, pid_t pid) {
  auto complain = [pid](const Result<>& r) {
    if (!r) TS_LOG_ERROR("recovery: open the network of process {}: {}", pid, r.error().message());
  };
  // The tasks may run already, if a failed dump was just being undone.
  if (auto frozen = cgroup.frozen(); frozen && *frozen) {
    auto pids = cgroup.processes();
    complain(pids ? criu::open_network_again(pid, *pids) : Result<>(std::unexpected(pids.error())));
  }
  complain(migrate::ShutNetwork::open_of(pid));
}

// An undecided move of ours: its tasks belong here. The kernel and CRIU have given them back already or do so when CRIU
// notices that we are gone; what is left is the freeze that was ours.
// False: it does not run here any more.
bool give_back(migrate::Services& services, const state::Move& move) {
  auto found = migrate::find_container(services, move.container);
  if (!found) {
    TS_LOG_WARN("recovery: mig={} {}: {}", move.id, move.container, found.error().message());
    return false;
  }
  auto cgroup = sys::Cgroup::of_process(found->container.pid);
  bool runs = found->container.pid > 0;
  if (runs && cgroup) {
    open_network(*cgroup, found->container.pid);
    if (auto r = sys::Throttle::lift_stale(*cgroup); !r)
      TS_LOG_ERROR("recovery: mig={} {}: {}", move.id, move.container, r.error().message());
    if (auto r = cgroup->thaw(Deadline::in(milliseconds(5000))); !r)
      TS_LOG_ERROR("recovery: mig={} thaw {}: {}", move.id, move.container, r.error().message());
  }
  // What was held is in the summary, which lists of moves leave out.
  auto whole = services.store->move(move.id);
  if (whole && !whole->summary.empty()) {
    if (auto r = found->engine->release_restarts(found->container.id, whole->summary); !r)
      TS_LOG_ERROR("recovery: mig={} restart policy of {}: {}", move.id, move.container, r.error().message());
  }
  TS_LOG_INFO("recovery: mig={} undecided, {} {}", move.id, move.container, runs ? "runs here" : "does not run here");
  return runs;
}

// Its tasks are dead with their host, and the destination has it: the engine must not start a second one.
void keep_stopped(migrate::Services& services, const state::Move& move) {
  auto found = migrate::find_container(services, move.container);
  if (!found || found->container.pid > 0) return;
  if (auto r = found->engine->forget(found->container.id, /*keep=*/true, Deadline::in(kForgetLimit)); !r)
    TS_LOG_WARN("recovery: mig={} the stopped source container: {}", move.id, r.error().message());
}

void close_source(migrate::Services& services, state::Move& move, bool committed) {
  move.state = committed ? "done" : "rolled-back";
  if (committed) {
    keep_stopped(services, move);
    move.error = fmt::format("the daemon ended after the decision: {} belongs to {}", move.container, move.to);
    return;
  }
  if (auto r = services.store->decide(move.id, state::Decision::kAbort); !r)
    TS_LOG_ERROR("recovery: mig={} journal: {}", move.id, r.error().message());
  move.error = "the daemon ended during this move";
  if (!give_back(services, move))
    move.error += fmt::format(
        ", and {} does not run here: with the host went its memory, not its files. Its engine can start it anew",
        move.container);
}

// Without its directory a container that had arrived is gone as well: the host went down.
void close_destination(const migrate::Services& services, state::Move& move, bool committed) {
  bool parked = migrate::destination_state(move.phase) == migrate::DestinationState::kParked;
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
  if (!decision) {
    TS_LOG_ERROR("recovery: mig={} journal: {}", move.id, decision.error().message());
    return;
  }
  bool committed = *decision == state::Decision::kCommit;
  move.role == "source" ? close_source(services, move, committed) : close_destination(services, move, committed);
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
