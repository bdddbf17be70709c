#include "memory/track/task_set.h"

#include <array>
#include <filesystem>

#include "base/text.h"
#include "sys/file.h"
#include "sys/process.h"

namespace transship::memory {
namespace {

constexpr size_t kMaxRanges = 8192;

bool lives(const std::string& stat_path) {
  auto stat = sys::read_file(stat_path, 4096);
  if (!stat) return false;
  auto end = stat->rfind(')');
  return end != std::string::npos && end + 2 < stat->size() && (*stat)[end + 2] != 'Z' && (*stat)[end + 2] != 'X';
}

// The leader where it lives.
Result<pid_t> live_thread(pid_t pid) {
  if (lives(fmt::format("/proc/{}/stat", pid))) return pid;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(fmt::format("/proc/{}/task", pid), error)) {
    auto thread = parse_u64(entry.path().filename().string(), "a thread's number");
    if (thread && lives(entry.path().string() + "/stat")) return static_cast<pid_t>(*thread);
  }
  return fail(Errc::kNotFound, "process {} has ended", pid);
}

}  // namespace

Result<TrackedTask> identify_task(pid_t pid) {
  TrackedTask task;
  task.pid = pid;
  auto started = sys::start_time(pid);
  if (!started) return fail(Errc::kNotFound, "process {} has ended", pid);
  task.started = *started;
  TS_TRY_ASSIGN(task.reader, live_thread(pid));
  TS_TRY_ASSIGN(uint64_t inner, innermost_pid(pid));
  task.space = {SpaceKind::kTask, inner};
  return task;
}

std::string command_of(pid_t pid) {
  auto name = sys::read_file(fmt::format("/proc/{}/comm", pid), 4096);
  return name ? std::string(trim(*name)) : std::string();
}

void RunCollector::begin(const TrackedTask& task) {
  space_ = task.space;
  reader_ = task.reader;
}

Result<> RunCollector::without_ended(Result<>&& result) {
  if (result || sink_failed_ || result.error().code() != Errc::kNotFound) return std::move(result);
  return flush();
}

Result<> RunCollector::flush() {
  if (pending_.empty()) return {};
  stats_.pages += pending_pages_;
  stats_.ranges += pending_.size();
  if (keep != nullptr) keep->insert(keep->end(), pending_.begin(), pending_.end());
  auto result = sink_({space_, reader_, pending_});
  sink_failed_ = sink_failed_ || !result;
  pending_.clear();
  pending_pages_ = 0;
  return result;
}

Result<bool> RunCollector::walk(
    uint64_t start, uint64_t end,
    const std::function<Result<Pagemap::Walk>(uint64_t, uint64_t, std::vector<PageRange>&)>& walk) {
  while (start < end) {
    size_t before = pending_.size();
    uint64_t joined = pending_.empty() ? 0 : pending_.back().pages;
    auto begin = Clock::now();
    auto step = walk(start, kMaxPages, pending_);
    stats_.scan += std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin);
    // Also of a walk that failed: it may have protected what it found.
    if (before > 0) pending_pages_ += pending_[before - 1].pages - joined;
    for (size_t i = before; i < pending_.size(); ++i) pending_pages_ += pending_[i].pages;
    if (!step) return std::unexpected(std::move(step).error());
    // First: what this step found may be found again, and must not have been read before that.
    if (step->unregistered) return true;
    if (pending_pages_ >= kMaxPages || pending_.size() >= kMaxRanges) TS_TRY(flush());
    start = step->walked;
  }
  return false;
}

Result<> RunCollector::add(std::span<const PageRange> ranges) {
  for (const auto& range : ranges) {
    append_range(pending_, range.address, range.pages);
    pending_pages_ += range.pages;
    if (pending_pages_ >= kMaxPages || pending_.size() >= kMaxRanges) TS_TRY(flush());
  }
  return {};
}

namespace {

Result<> collect_populated(const TrackedTask& task, const std::vector<Vma>& vmas, bool (*wanted)(const Vma&),
                           RunCollector& collector, const Cancel& cancel) {
  TS_TRY_ASSIGN(Pagemap pagemap, Pagemap::open(task.reader));
  collector.begin(task);
  for (const auto& vma : vmas) {
    TS_TRY(cancel.check());
    if (!wanted(vma)) continue;
    TS_TRY(collector.walk(vma.start, vma.end, [&](uint64_t start, uint64_t max_pages, std::vector<PageRange>& out) {
      return pagemap.populated(start, vma.end, backing_of(vma), max_pages, out);
    }));
  }
  return {};
}

}  // namespace

Result<> collect_whole(const TrackedTask& task, RunCollector& collector, const Cancel& cancel) {
  TS_TRY_ASSIGN(std::vector<Vma> vmas, read_vmas(task.reader));
  TS_TRY(collect_populated(task, vmas, is_private_memory, collector, cancel));
  TS_TRY(collect_always_dumped(vmas, collector));
  return collector.flush();
}

bool may_be_touched_by_dump(const Vma& vma) { return is_private_memory(vma) && (vma.executable || vma.inode != 0); }

Result<> collect_touched_by_dump(const TrackedTask& task, RunCollector& collector, const Cancel& cancel) {
  TS_TRY_ASSIGN(std::vector<Vma> vmas, read_vmas(task.reader));
  TS_TRY(collect_populated(task, vmas, may_be_touched_by_dump, collector, cancel));
  return collector.flush();
}

Result<> collect_always_dumped(const std::vector<Vma>& vmas, RunCollector& collector) {
  for (const auto& vma : vmas) {
    if (!is_always_dumped(vma)) continue;
    TS_TRY(collector.add(std::array{PageRange{vma.start, vma.bytes() / kPageBytes}}));
  }
  return {};
}

Result<std::vector<PageRange>> populated_pages(pid_t pid) {
  TS_TRY_ASSIGN(Cancel never, Cancel::create());
  TS_TRY_ASSIGN(TrackedTask task, identify_task(pid));
  std::vector<PageRange> found;
  RoundStats stats;
  RunSink sink = [&](const PageRuns& runs) -> Result<> {
    found.insert(found.end(), runs.ranges.begin(), runs.ranges.end());
    return {};
  };
  RunCollector collector(sink, stats);
  TS_TRY(collect_whole(task, collector, never));
  return found;
}

}  // namespace transship::memory
