#include "node/recovery.h"

#include <sys/mount.h>

#include <filesystem>

#include "base/log.h"
#include "base/text.h"
#include "base/wall_clock.h"
#include "gate/gate.h"
#include "migrate/survey.h"
#include "network/hold.h"
#include "network/moved_connections.h"
#include "sys/cgroup.h"
#include "sys/file.h"
#include "sys/throttle.h"

namespace transship::node {
namespace {

void remove_move_directories(const std::string& run_dir) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(run_dir + "/moves", error)) {
    std::string path = entry.path();
    while (::umount2(path.c_str(), MNT_DETACH) == 0) TS_LOG_INFO("recovery: unmounted {}", path);
    (void)::rmdir(path.c_str());
  }
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
    if (auto r = sys::Throttle::lift_stale(*cgroup); !r)
      TS_LOG_ERROR("recovery: mig={} {}: {}", move.id, move.container, r.error().message());
    if (auto r = cgroup->thaw(Deadline::in(milliseconds(5000))); !r)
      TS_LOG_ERROR("recovery: mig={} thaw {}: {}", move.id, move.container, r.error().message());
  }
  if (!move.summary.empty()) {
    if (auto r = found->engine->release_restarts(found->container.id, move.summary); !r)
      TS_LOG_ERROR("recovery: mig={} restart policy of {}: {}", move.id, move.container, r.error().message());
  }
  TS_LOG_INFO("recovery: mig={} undecided, {} runs here", move.id, move.container);
}

void close_move(migrate::Services& services, state::Move move) {
  auto decision = services.store->decision(move.id);
  bool committed = decision && *decision == state::Decision::kCommit;
  if (move.role == "source" && !committed) {
    if (auto r = services.store->decide(move.id, state::Decision::kAbort); !r)
      TS_LOG_ERROR("recovery: mig={} journal: {}", move.id, r.error().message());
    give_back(services, move);
  }
  move.state = committed ? "done" : "rolled-back";
  move.error = "the daemon ended during this move";
  move.summary.clear();
  move.ended_ms = unix_ms_now();
  if (auto r = services.store->put_move(move, true); !r)
    TS_LOG_ERROR("recovery: mig={} journal: {}", move.id, r.error().message());
}

}  // namespace

void recover(migrate::Services& services) {
  if (auto n = network::remove_stale_holds(); !n) TS_LOG_WARN("recovery: {}", n.error().message());
  if (auto n = gate::remove_stale_gates(); !n) TS_LOG_WARN("recovery: {}", n.error().message());
  remove_move_directories(services.settings.run_dir);
  auto unfinished = services.store->unfinished_moves();
  if (!unfinished) {
    TS_LOG_ERROR("recovery: journal: {}", unfinished.error().message());
    return;
  }
  for (auto& move : *unfinished) close_move(services, std::move(move));
  collect_garbage(services);
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
