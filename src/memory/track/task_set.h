// The processes that a tracker follows, from one look at the group to the next; and the collecting of what it finds.
// Only the trackers use this. One thread.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "memory/track/address_space.h"
#include "memory/track/pagemap.h"
#include "memory/track/tracker.h"

namespace transship::memory {

struct TrackedTask {
  pid_t pid = 0;
  uint64_t started = 0;  // with the pid it names the process for good
  pid_t reader = 0;      // a live thread: memory of a process is not reachable through a leader that has ended
  SpaceId space;
};

// What is there of `pid` now; kNotFound when it has ended.
Result<TrackedTask> identify_task(pid_t pid);
// The process in one word, for people.
std::string command_of(pid_t pid);

// Brings `tasks` (anything derived from TrackedTask, by pid) up to date: the ended ones go, new ones come.
template <class Task>
Result<> refresh_tasks(const TaskGroup& group, std::map<pid_t, Task>& tasks) {
  TS_TRY_ASSIGN(std::vector<pid_t> pids, group.processes());
  std::map<pid_t, Task> now;
  for (pid_t pid : pids) {
    auto identity = identify_task(pid);
    if (!identity && identity.error().code() == Errc::kNotFound) continue;
    if (!identity) return std::unexpected(std::move(identity).error());
    auto known = tasks.find(pid);
    if (known != tasks.end() && known->second.started == identity->started) {
      known->second.reader = identity->reader;
      now.insert(tasks.extract(known));
      continue;
    }
    Task fresh;
    static_cast<TrackedTask&>(fresh) = *identity;
    now.emplace(pid, std::move(fresh));
  }
  tasks = std::move(now);
  return {};
}

// Gathers ranges of one process and hands them to the sink before there are too many: what is read long after its scan
// is likely to have been written again.
class RunCollector {
 public:
  RunCollector(const RunSink& sink, RoundStats& stats) : sink_(sink), stats_(stats) {}
  // 64 MiB at most are gathered.
  static constexpr uint64_t kMaxPages = 16384;

  void begin(const TrackedTask& task);
  // The ranges that `walk(start, max_pages, out)` finds from `start` to `end`, piece by piece. True: the walk came to
  // memory that is not registered, and has to begin again behind a registration.
  Result<bool> walk(uint64_t start, uint64_t end,
                    const std::function<Result<Pagemap::Walk>(uint64_t, uint64_t, std::vector<PageRange>&)>& walk);
  Result<> add(std::span<const PageRange> ranges);
  Result<> flush();
  // A process that ended in the middle is no error, what was found of it goes to the sink all the same. An error of the
  // sink's stays one, whatever its code.
  Result<> without_ended(Result<>&& result);
  // All that was given out of the current process; kept only when asked for.
  std::vector<PageRange>* keep = nullptr;

 private:
  const RunSink& sink_;
  RoundStats& stats_;
  SpaceId space_;
  pid_t reader_ = 0;
  std::vector<PageRange> pending_;
  uint64_t pending_pages_ = 0;
  bool sink_failed_ = false;
};

// All that CRIU would put into the image: what a process that is not tracked is copied by.
Result<> collect_whole(const TrackedTask& task, RunCollector& collector, const Cancel& cancel);
// Where CRIU may write while it dumps: code, and what lies in files. Everything that is there.
Result<> collect_touched_by_dump(const TrackedTask& task, RunCollector& collector, const Cancel& cancel);
bool may_be_touched_by_dump(const Vma& vma);

inline Backing backing_of(const Vma& vma) { return vma.inode == 0 ? Backing::kAnonymous : Backing::kFile; }
// Only what no tracker sees: [vdso], rings of libaio.
Result<> collect_always_dumped(const std::vector<Vma>& vmas, RunCollector& collector);

}  // namespace transship::memory
