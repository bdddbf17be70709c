// DirtyTracker by userfaultfd write-protection and PAGEMAP_SCAN; see tracker.h.
#pragma once
#include <deque>
#include <map>

#include "base/fd.h"
#include "memory/track/page_marks.h"
#include "memory/track/task_set.h"

namespace transship::memory {

class ScanTracker final : public DirtyTracker {
 public:
  explicit ScanTracker(TaskGroup group) : group_(std::move(group)) {}
  ~ScanTracker() override { detach(); }
  Result<RoundStats> round(const RunSink& sink, const Cancel& cancel) override;
  Result<RoundStats> last_round(const RunSink& sink, const Cancel& cancel) override;
  Result<RoundStats> after_dump(const RunSink& sink, const Cancel& cancel) override;
  std::vector<Untracked> findings() const override;
  void detach() noexcept override { tasks_.clear(); }
  TrackerKind kind() const override { return TrackerKind::kPagemapScan; }

 private:
  // What was reported in one round of a process that does direct I/O.
  struct Recent {
    Clock::time_point at;
    std::vector<PageRange> ranges;
  };
  struct Task : TrackedTask {
    Fd uffd;
    std::optional<Pagemap> pagemap;
    std::string untracked;  // why; empty: it is tracked, or will be
    int unavailable = 0;    // attempts to attach that failed for a reason that may pass
    std::deque<Recent> recent;
    PageMarks marks;  // of private file mappings, see find_restored()
  };
  struct Pass;  // one round
  Result<> round_of(Task& task, Pass& pass);
  Result<> repeat_direct_io(Task& task, Pass& pass);
  Result<> scan_task(Task& task, Pass& pass);
  Result<bool> attach(Task& task, Pass& pass);
  Result<> inject(Task& task, Pass& pass);
  Result<bool> attached_still(Task& task, const std::vector<Vma>& vmas);
  static MemoryDescriptors look_at_descriptors(Task& task);
  static Result<bool> register_vma(Task& task, const Vma& vma, Pass& pass);
  Result<> scan_vma(Task& task, const Vma& vma, Pass& pass);
  Result<Pagemap::Walk> take_marked(Task& task, uint64_t start, uint64_t end, uint64_t max_pages,
                                    std::vector<PageRange>& out, const Cancel& cancel);
  Result<> find_restored(Task& task, const Vma& vma, Pass& pass);
  Result<> last_of(Task& task, Pass& pass);
  Result<> scan_frozen(Task& task, const std::vector<Vma>& vmas, bool (*wanted)(const Vma&), Pass& pass);
  Result<> touched_of(Task& task, Pass& pass);
  Result<> last_tracked(Task& task, const std::vector<Vma>& vmas, Pass& pass);
  bool shares_memory(const Task& task) const;
  TaskGroup group_;
  std::map<pid_t, Task> tasks_;
  PageReader reader_;
};

}  // namespace transship::memory
