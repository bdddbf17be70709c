// DirtyTracker by the kernel's soft-dirty bits (CONFIG_MEM_SOFT_DIRTY; Documentation/admin-guide/mm/soft-dirty.rst).
// Looking at the bits and resetting them are two steps, so the container stands still from the one to the other.
#pragma once
#include <map>

#include "memory/track/task_set.h"

namespace transship::memory {

class SoftDirtyTracker final : public DirtyTracker {
 public:
  explicit SoftDirtyTracker(TaskGroup group) : group_(std::move(group)) {}
  Result<RoundStats> round(const RunSink& sink, const Cancel& cancel) override;
  Result<RoundStats> last_round(const RunSink& sink, const Cancel& cancel) override;
  Result<RoundStats> after_dump(const RunSink& sink, const Cancel& cancel) override;
  std::vector<Untracked> findings() const override;
  void detach() noexcept override { tasks_.clear(); }  // bits leave nothing to undo
  TrackerKind kind() const override { return TrackerKind::kSoftDirty; }

 private:
  struct Task : TrackedTask {
    bool cleared = false;  // its bits count from the last round on
    std::string untracked;
    std::vector<PageRange> found;
  };
  Result<> look(Task& task, const Cancel& cancel);
  Result<> look_at_all(const Cancel& cancel, RoundStats& stats);
  Result<> last_of(Task& task, RunCollector& collector, const Cancel& cancel);
  TaskGroup group_;
  std::map<pid_t, Task> tasks_;
};

}  // namespace transship::memory
