#include "memory/track/tracker.h"

#include "memory/track/scan_tracker.h"
#include "memory/track/soft_dirty_tracker.h"

namespace transship::memory {
namespace {

// Where nothing tells what was written: nothing before the last round, all in it.
class WholeTracker final : public DirtyTracker {
 public:
  explicit WholeTracker(TaskGroup group) : group_(std::move(group)) {}
  Result<RoundStats> round(const RunSink&, const Cancel&) override {
    TS_TRY(refresh_tasks(group_, tasks_));
    RoundStats stats;
    stats.processes = static_cast<uint32_t>(tasks_.size());
    return stats;
  }
  Result<RoundStats> last_round(const RunSink& sink, const Cancel& cancel) override {
    TS_TRY_ASSIGN(RoundStats stats, round(sink, cancel));
    for (auto& [pid, task] : tasks_) {
      RunCollector collector(sink, stats);
      TS_TRY(collector.without_ended(collect_whole(task, collector, cancel)));
    }
    return stats;
  }
  Result<RoundStats> after_dump(const RunSink& sink, const Cancel& cancel) override {
    RoundStats stats;
    for (auto& [pid, task] : tasks_) {
      RunCollector collector(sink, stats);
      TS_TRY(collector.without_ended(collect_touched_by_dump(task, collector, cancel)));
    }
    return stats;
  }
  std::vector<Untracked> findings() const override {
    std::vector<Untracked> found;
    for (const auto& [pid, task] : tasks_)
      found.push_back({pid, command_of(pid), "cannot be tracked on this kernel, like every other"});
    return found;
  }
  void detach() noexcept override { tasks_.clear(); }
  TrackerKind kind() const override { return TrackerKind::kNone; }

 private:
  TaskGroup group_;
  std::map<pid_t, TrackedTask> tasks_;
};

constexpr milliseconds kFreeze{2'000};

}  // namespace

std::string_view tracker_name(TrackerKind kind) {
  switch (kind) {
    case TrackerKind::kPagemapScan: return "pagemap-scan";
    case TrackerKind::kSoftDirty: return "soft-dirty";
    case TrackerKind::kNone: return "none";
    case TrackerKind::kInvalid: break;
  }
  return "?";
}

TrackerChoice choose_tracker() {
  auto scan = probe_pagemap_scan();
  if (scan) return {TrackerKind::kPagemapScan, ""};
  auto soft = probe_soft_dirty();
  if (soft) return {TrackerKind::kSoftDirty, scan.error().message()};
  return {TrackerKind::kNone, fmt::format("{}; {}", scan.error().message(), soft.error().message())};
}

TaskGroup tasks_of(const sys::Cgroup& cgroup) {
  return {[cgroup] { return cgroup.processes(); },
          [cgroup](bool freeze) {
            return freeze ? cgroup.freeze(Deadline::in(kFreeze)) : cgroup.thaw(Deadline::in(kFreeze));
          }};
}

Result<std::unique_ptr<DirtyTracker>> make_tracker(TrackerKind kind, TaskGroup group) {
  if (!group.processes) return fail(Errc::kInvalidArgument, "make a tracker: no way to list processes");
  switch (kind) {
    case TrackerKind::kPagemapScan: return std::make_unique<ScanTracker>(std::move(group));
    case TrackerKind::kSoftDirty:
      if (!group.freeze) return fail(Errc::kInvalidArgument, "make a soft-dirty tracker: no way to freeze");
      return std::make_unique<SoftDirtyTracker>(std::move(group));
    case TrackerKind::kNone: return std::make_unique<WholeTracker>(std::move(group));
    case TrackerKind::kInvalid: break;
  }
  return fail(Errc::kInvalidArgument, "make a tracker: no such kind");
}

}  // namespace transship::memory
