#include "node/recovery.h"

#include <sys/mount.h>

#include <filesystem>

#include "base/log.h"
#include "base/text.h"
#include "base/wall_clock.h"
#include "criu/rescue.h"
#include "gate/gate.h"
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

void remove_directory(const std::string& path) {
  while (::umount2(path.c_str(), MNT_DETACH) == 0) TS_LOG_INFO("recovery: unmounted {}", path);
  (void)::rmdir(path.c_str());
}

bool committed(migrate::Services& services, const std::string& move_id) {
  auto decision = services.store->decision(move_id);
  return decision && *decision == state::Decision::kCommit;
}

// What is to arrive here is either undone or gone on with, by the move itself; a container that leaves is given back
// unless it belongs to its destination already.
bool can_go_on(migrate::Services& services, const Unfinished& move) {
  return move.facts.has_arriving() || (move.facts.has_leaving() && committed(services, move.move_id));
}

std::vector<Unfinished> sort_out_directories(migrate::Services& services) {
  std::vector<Unfinished> unfinished;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(services.settings.run_dir + "/moves", error)) {
    Unfinished move{entry.path().filename(), {}};
    if (auto facts = migrate::read_resume_file(entry.path()); facts) move.facts = std::move(*facts);
    if (is_plain_name(move.move_id) && can_go_on(services, move))
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
void give_back(migrate::Services& services, const state::Move& move) {
  auto found = migrate::find_container(services, move.container);
  if (!found || found->container.pid <= 0) {
    TS_LOG_WARN("recovery: mig={} {} does not run here", move.id, move.container);
    return;
  }
  auto cgroup = sys::Cgroup::of_process(found->container.pid);
  if (cgroup) {
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
  TS_LOG_INFO("recovery: mig={} undecided, {} runs here", move.id, move.container);
}

void close_move(migrate::Services& services, state::Move move) {
  bool decided = committed(services, move.id);
  if (move.role == "source" && !decided) {
    if (auto r = services.store->decide(move.id, state::Decision::kAbort); !r)
      TS_LOG_ERROR("recovery: mig={} journal: {}", move.id, r.error().message());
    give_back(services, move);
  }
  // Without its directory a container that had arrived is gone as well: the host went down.
  move.state = !decided ? "rolled-back" : move.role == "source" ? "done" : "failed";
  move.error = "the daemon ended during this move";
  move.summary.clear();
  move.ended_ms = unix_ms_now();
  if (auto r = services.store->put_move(move, true); !r)
    TS_LOG_ERROR("recovery: mig={} journal: {}", move.id, r.error().message());
}

}  // namespace

std::vector<Unfinished> recover(migrate::Services& services) {
  if (auto n = network::remove_stale_holds(); !n) TS_LOG_WARN("recovery: {}", n.error().message());
  if (auto n = gate::remove_stale_gates(); !n) TS_LOG_WARN("recovery: {}", n.error().message());
  auto unfinished = sort_out_directories(services);
  auto moves = services.store->unfinished_moves();
  if (!moves) {
    TS_LOG_ERROR("recovery: journal: {}", moves.error().message());
    return unfinished;
  }
  for (auto& move : *moves) {
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
