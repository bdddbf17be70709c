// Finds what a container's processes have written since it was last looked at.
//
//   auto tracker = make_tracker(choose_tracker().kind, container, {});
//   while (…) tracker->round(read_and_send, cancel);        // the container runs
//   container is frozen
//   tracker->last_round(read_and_send, cancel);             // now the other host has everything
//   tracker->detach();                                      // or when it goes on here after all
//
// What is right about it, and why it is done this way (each rule was paid for with stale pages):
//  * A page is protected by the same step that reports it, and read after that, never before: a write in between is
//    reported again. The sink is called right after a piece was scanned, and has to read the pages before it returns.
//  * Pages that were dropped (munmap, MADV_DONTNEED) are *not* reported. What of all that was sent belongs to the
//    process is what CRIU's last dump, or populated_pages() of the frozen process, says is there.
//  * A dropped page of a private file mapping comes back protected, with other content, and stays so until the faulting
//    write has been tried again: after the freeze such pages are compared with what was given out.
//  * Pages the program never wrote (of files, zero pages) are not reported: reading them would make them.
#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "memory/track/page_runs.h"
#include "sys/cgroup.h"

namespace transship::memory {

enum class TrackerKind : uint8_t {
  kInvalid = 0,
  kPagemapScan = 1,  // write-protection through userfaultfd: Linux 6.7, private memory of all kinds
  kSoftDirty = 2,    // the kernel's soft-dirty bits: stops the container for each round's look
  kNone = 3,         // nothing is known before the last round
};
std::string_view tracker_name(TrackerKind kind);

struct TrackerChoice {
  TrackerKind kind = TrackerKind::kNone;
  std::string why;  // why not a better one; empty for the best
};
// Tries them out on our own process. A millisecond.
TrackerChoice choose_tracker();

// The container's processes. Both functions are called by whoever calls the tracker, in that thread.
struct TaskGroup {
  std::function<Result<std::vector<pid_t>>()> processes;
  // Freezes (true) and thaws. Only kSoftDirty uses it, for some milliseconds in each round.
  std::function<Result<>(bool)> freeze;
};
TaskGroup tasks_of(const sys::Cgroup& cgroup);

struct RoundStats {
  uint64_t pages = 0;  // reported
  uint64_t ranges = 0;
  uint32_t processes = 0;
  uint32_t attached = 0;              // processes newly tracked in this round; after an exec again
  uint32_t mappings = 0;              // newly tracked in processes that were tracked before
  uint32_t postponed = 0;             // processes that could not be attached now (all threads in vfork, say): next time
  std::chrono::microseconds scan{0};  // without the sink
  std::chrono::microseconds longest_stop{0};  // that a thread stood still for an attachment; kSoftDirty: the container
};

// What is copied in the last round only, whole, and so adds to the gap.
struct Untracked {
  pid_t pid = 0;
  std::string process;  // its command name
  std::string why;      // a sentence's end: "uses io_uring, …"
};

// One thread. After an error of round() or last_round() what was taken is lost: detach, and start anew or copy all.
class DirtyTracker {
 public:
  virtual ~DirtyTracker() = default;
  // The container runs. Private memory of every process now in the group that was written since the last round: in the
  // first round of a process, all of it. Processes that end meanwhile are left out.
  virtual Result<RoundStats> round(const RunSink& sink, const Cancel& cancel) = 0;
  // The container stands still, and does so until this returns. Also gives what can't be tracked, whole.
  virtual Result<RoundStats> last_round(const RunSink& sink, const Cancel& cancel) = 0;
  // After last_round(), the container still frozen and CRIU done with its dump: pages that CRIU itself may have written
  // meanwhile, or made (it runs its own code in the processes, in the place of theirs, and puts theirs back).
  virtual Result<RoundStats> after_dump(const RunSink& sink, const Cancel& cancel) = 0;
  // As of the latest round.
  virtual std::vector<Untracked> findings() const = 0;
  // Leaves the processes as if they had never been tracked. Idempotent; the destructor does it too. Holds a process's
  // memory map for up to 9 ms per GiB; needless for one that is killed anyway.
  virtual void detach() noexcept = 0;
  virtual TrackerKind kind() const = 0;
};

Result<std::unique_ptr<DirtyTracker>> make_tracker(TrackerKind kind, TaskGroup group);

// Every private page that CRIU would put into the image of the process, of whatever content. For a frozen process.
Result<std::vector<PageRange>> populated_pages(pid_t pid);

}  // namespace transship::memory
