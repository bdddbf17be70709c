#include "memory/track/soft_dirty_tracker.h"

namespace transship::memory {
namespace {

constexpr std::string_view kIoUring = "uses io_uring, which writes registered buffers unseen";
constexpr std::string_view kDirectIo = "reads files directly (O_DIRECT), which may write memory unseen";

RunSink into(std::vector<PageRange>& found) {
  return [&found](const PageRuns& runs) -> Result<> {
    found.insert(found.end(), runs.ranges.begin(), runs.ranges.end());
    return {};
  };
}

// What is dirty, in a process that stands still.
Result<> collect_dirty(const TrackedTask& task, RunCollector& collector, const Cancel& cancel) {
  TS_TRY_ASSIGN(std::vector<Vma> vmas, read_vmas(task.reader));
  TS_TRY_ASSIGN(Pagemap pagemap, Pagemap::open(task.reader));
  collector.begin(task);
  for (const auto& vma : vmas) {
    TS_TRY(cancel.check());
    if (!is_private_memory(vma)) continue;
    TS_TRY(collector.walk(vma.start, vma.end, [&](uint64_t start, uint64_t max_pages, auto& out) {
      return pagemap.soft_dirty(start, vma.end, max_pages, out);
    }));
  }
  return collector.flush();
}

}  // namespace

Result<> SoftDirtyTracker::look(Task& task, const Cancel& cancel) {
  task.found.clear();
  auto descriptors = memory_descriptors(task.reader);
  if (descriptors.io_uring) task.untracked = kIoUring;
  if (descriptors.direct_io) task.untracked = kDirectIo;
  if (!task.untracked.empty()) return {};
  RoundStats unused;
  RunSink sink = into(task.found);
  RunCollector collector(sink, unused);
  TS_TRY(collector.without_ended(task.cleared ? collect_dirty(task, collector, cancel)
                                              : collect_whole(task, collector, cancel)));
  TS_TRY(collector.without_ended(clear_soft_dirty(task.reader)));
  task.cleared = true;
  return {};
}

Result<> SoftDirtyTracker::look_at_all(const Cancel& cancel, RoundStats& stats) {
  TS_TRY(group_.freeze(true));
  auto frozen = Clock::now();
  auto work = [&]() -> Result<> {
    TS_TRY(refresh_tasks(group_, tasks_));
    for (auto& [pid, task] : tasks_) {
      bool fresh = !task.cleared;
      TS_TRY(look(task, cancel));
      if (fresh && task.cleared) ++stats.attached;
    }
    return {};
  };
  auto result = work();
  auto thawed = group_.freeze(false);
  stats.longest_stop = stats.scan = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - frozen);
  TS_TRY(std::move(result));
  return thawed;
}

Result<RoundStats> SoftDirtyTracker::round(const RunSink& sink, const Cancel& cancel) {
  RoundStats stats;
  TS_TRY(look_at_all(cancel, stats));
  auto scan = stats.scan;
  stats.processes = static_cast<uint32_t>(tasks_.size());
  for (auto& [pid, task] : tasks_) {
    RunCollector collector(sink, stats);
    collector.begin(task);
    TS_TRY(collector.add(task.found));
    TS_TRY(collector.flush());
    task.found = {};
  }
  stats.scan = scan;
  return stats;
}

Result<> SoftDirtyTracker::last_of(Task& task, RunCollector& collector, const Cancel& cancel) {
  auto descriptors = memory_descriptors(task.reader);
  if (descriptors.io_uring || descriptors.direct_io || !task.untracked.empty() || !task.cleared)
    return collect_whole(task, collector, cancel);
  TS_TRY(collect_dirty(task, collector, cancel));
  TS_TRY_ASSIGN(std::vector<Vma> vmas, read_vmas(task.reader));
  TS_TRY(collect_always_dumped(vmas, collector));
  return collector.flush();
}

Result<RoundStats> SoftDirtyTracker::last_round(const RunSink& sink, const Cancel& cancel) {
  TS_TRY(refresh_tasks(group_, tasks_));
  RoundStats stats;
  stats.processes = static_cast<uint32_t>(tasks_.size());
  for (auto& [pid, task] : tasks_) {
    RunCollector collector(sink, stats);
    TS_TRY(collector.without_ended(last_of(task, collector, cancel)));
  }
  return stats;
}

// The marks were reset for the dump, or by it: they say nothing about it.
Result<RoundStats> SoftDirtyTracker::after_dump(const RunSink& sink, const Cancel& cancel) {
  RoundStats stats;
  for (auto& [pid, task] : tasks_) {
    RunCollector collector(sink, stats);
    TS_TRY(collector.without_ended(collect_touched_by_dump(task, collector, cancel)));
  }
  return stats;
}

std::vector<Untracked> SoftDirtyTracker::findings() const {
  std::vector<Untracked> found;
  for (const auto& [pid, task] : tasks_) {
    if (!task.untracked.empty()) found.push_back({pid, command_of(pid), task.untracked});
  }
  return found;
}

}  // namespace transship::memory
