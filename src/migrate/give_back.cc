#include "migrate/give_back.h"

#include "base/log.h"
#include "criu/rescue.h"
#include "migrate/shut_network.h"
#include "migrate/survey.h"
#include "sys/cgroup.h"
#include "sys/throttle.h"

namespace transship::migrate {
namespace {

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
  complain(ShutNetwork::open_of(pid));
}

}  // namespace

// An undecided move of ours: its tasks belong here. The kernel and CRIU have given them back already or do so when CRIU
// notices that we are gone; what is left is the freeze that was ours.
bool give_back(Services& services, const state::Move& move) {
  auto found = find_container(services, move.container);
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

}  // namespace transship::migrate
