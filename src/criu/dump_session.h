// One dump of a running container by CRIU, with every step in our hands:
//
//   start() ── CRIU is up and waits (nothing frozen) ── dump() ── images complete, tasks frozen, network shut ──┐
//                                                                                                             ├─
//                                                                                                             commit():
//                                                                                                             tasks die
//   destructor and every failure: rollback() = tasks run again, network open, as if nothing had been ───────────┘
//   after keep_frozen(): commit() or nothing; the tasks never run here again
#pragma once
#include <sys/types.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/cancel.h"
#include "base/result.h"
#include "criu/memory_method.h"
#include "criu/shortcuts.h"

namespace transship::criu {

struct DumpOptions {
  std::string criu = "criu";
  pid_t pid = 0;           // first process of the container
  std::string root;        // the container's root directory, as its configuration names it
  std::string images_dir;  // exists, empty; on tmpfs
  std::string work_dir;    // exists; dump.log goes there
  // Mounts that are not part of the images: destination in the container, and the name by which restore finds it.
  std::vector<std::pair<std::string, std::string>> external_mounts;
  std::vector<std::string> externals;  // others in CRIU's notation, such as "net[4026532406]:extRootNetNS"
  uint32_t ghost_limit = 64U << 20;    // bytes of a deleted but open file
  int log_level = 2;                   // 2: errors and warnings. Each further level costs time while frozen.
  milliseconds freeze_timeout{2000};
  // Shut the container's network while it stands still. Not where the caller has shut it before dump() and opens it
  // after rollback() or not at all: that takes 5 ms off here, and three times that off the restore.
  bool lock_network = true;
  // Connections that nobody has accepted yet are left behind, instead of failing the dump.
  bool skip_in_flight = false;
  // A program to use as `tar` for the contents of tmpfs mounts (gate/tar_main.cc), empty: the one in PATH.
  std::string tar;
  // libtransship-criu.so (criu/shortcuts.h), which makes the dump shorter; empty: without.
  std::string preload;
  // Other than kFull: the images have no content of private memory, only holes where it is missing (criu/lazy_images.h
  // fills them). Shared memory is always written in full: CRIU 4.2 takes it for a memfd, and never leaves those out.
  // kParent needs `kdat` from probe_memory_method().
  MemoryMethod memory = MemoryMethod::kFull;
  KdatPatch kdat;
};

struct DumpTimes {
  milliseconds freeze{0};  // until every task stood still
  milliseconds images{0};  // from then until the images were complete
  Shortcuts shortcuts;     // with DumpOptions::preload: what CRIU had of it
};

// One thread. Owns the CRIU process and two entries of work_dir, "parent" and "criu.kdat". Should CRIU be killed by
// somebody else before dump() returns, the tasks go on and their network is opened again, but a connection that was
// just being saved can break: the kernel lets traced tasks go at once, and until they are frozen again they may find a
// socket in repair mode. After dump() they stay frozen and nothing is lost.
class DumpSession {
 public:
  // Starts CRIU and returns when it has prepared itself. The tasks go on running.
  static Result<DumpSession> start(const DumpOptions& options, const Cancel& cancel, Deadline deadline);
  DumpSession(DumpSession&&) noexcept;
  DumpSession& operator=(DumpSession&&) noexcept;
  ~DumpSession();
  // Freezes the container and dumps it. On failure the container runs again when this returns (the error says so).
  Result<DumpTimes> dump(const Cancel& cancel, Deadline deadline);
  // Requires a successful dump(). The tasks are killed; returns when CRIU has ended and the cgroup is empty. A failure
  // means that they could not be killed: they are frozen still, and the caller must go forward (see sys::Cgroup).
  Result<> commit(Deadline deadline);
  // Requires a successful dump(), and comes when the tasks are known to belong to another host while their memory is
  // still needed here: rollback() is refused from now on, and the destructor leaves them frozen with their network
  // shut.
  void keep_frozen();
  // Gives the tasks back. Idempotent, also after a failed dump(). A failure says what may still be wrong.
  Result<> rollback(Deadline deadline);

 private:
  struct State;
  explicit DumpSession(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace transship::criu
