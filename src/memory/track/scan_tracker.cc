#include "memory/track/scan_tracker.h"

#include <algorithm>

#include "base/log.h"
#include "memory/track/inject.h"
#include "memory/track/userfaultfd.h"
#include "sys/file.h"
#include "sys/proc_text.h"

namespace transship::memory {
namespace {

// Any thread stops well within; a busy host may keep it from running for a while.
constexpr milliseconds kInjection{3'000};
// A range replaced by new mappings again and again while it is scanned: the rest of it comes with the next round.
constexpr int kScanAttempts = 4;
// Below it the kernel may refuse an address whatever it is asked (vm.mmap_min_addr).
constexpr uint64_t kLowAddresses = 2U << 20;
// In the middle of an exec nothing can be brought into a process. What is so in this many rounds counts as lasting.
constexpr int kAttempts = 4;
// By then a direct read that was under way at a scan has ended.
constexpr std::chrono::seconds kDirectIoEnds{5};
constexpr size_t kMaxRecentRanges = 1U << 20;  // 16 MiB; a process with more is copied whole

constexpr std::string_view kOwnUserfaultfd =
    "handles page faults of its own (userfaultfd), so nobody else can protect it";
constexpr std::string_view kIoUring = "uses io_uring, which writes registered buffers unseen";
constexpr std::string_view kTooMuchDirectIo = "writes much memory while it reads files directly (O_DIRECT)";

}  // namespace

struct ScanTracker::Pass {
  RoundStats stats;
  RunCollector collector;
  const Cancel& cancel;
  Pass(const RunSink& sink, const Cancel& c) : collector(sink, stats), cancel(c) {}
};

// A child between vfork and exec, or of clone(CLONE_VM): its memory is its parent's, and tracked there.
bool ScanTracker::shares_memory(const Task& task) const {
  auto status = sys::read_file(fmt::format("/proc/{}/status", task.pid), 65536);
  if (!status) return false;
  auto parent = static_cast<pid_t>(sys::leading_number(sys::parse_fields(*status)["PPid"]));
  auto known = tasks_.find(parent);
  return known != tasks_.end() && same_address_space(task.reader, known->second.reader);
}

Result<> ScanTracker::inject(Task& task, Pass& pass) {
  task.pagemap.reset();
  task.uffd.reset();
  task.recent.clear();
  task.marks.clear();
  TS_TRY_ASSIGN(Injection injection, inject_userfaultfd(task.pid, pass.cancel, Deadline::in(kInjection)));
  TS_TRY(enable_write_protection(injection.uffd.get()));
  TS_TRY_ASSIGN(Pagemap pagemap, Pagemap::open(task.reader));
  task.pagemap = std::move(pagemap);
  task.uffd = std::move(injection.uffd);
  ++pass.stats.attached;
  pass.stats.longest_stop = std::max(pass.stats.longest_stop, injection.stopped);
  return {};
}

// False: not in this round.
Result<bool> ScanTracker::attach(Task& task, Pass& pass) {
  if (shares_memory(task)) {
    ++pass.stats.postponed;
    return false;
  }
  auto injected = inject(task, pass);
  if (injected) return true;
  switch (injected.error().code()) {
    case Errc::kNotFound: return false;
    case Errc::kCancelled: return std::unexpected(std::move(injected).error());
    case Errc::kUnavailable:
      if (++task.unavailable == kAttempts) break;
      [[fallthrough]];
    case Errc::kTimeout: ++pass.stats.postponed; return false;
    default: break;
  }
  TS_LOG_WARN("memory: process {} is not tracked: {}", task.pid, injected.error().message());
  task.untracked = "cannot be followed: " + injected.error().message();
  return false;
}

// An exec leaves our userfaultfd with an address space that is no more. The scan of an old pagemap is an error on some
// kernels only.
Result<bool> ScanTracker::attached_still(Task& task, const std::vector<Vma>& vmas) {
  auto any = std::ranges::find_if(vmas, [](const Vma& v) { return v.start > kLowAddresses && is_private_memory(v); });
  if (any == vmas.end()) return true;
  return address_space_lives(task.uffd.get(), any->start - kPageBytes);
}

// Also of memory that needs no registration, because somebody else has done it: then it is not ours to protect.
Result<bool> ScanTracker::register_vma(Task& task, const Vma& vma, Pass& pass) {
  for (int attempt = 0; attempt < kScanAttempts; ++attempt) {
    TS_TRY_ASSIGN(Registration answer, register_range(task.uffd.get(), vma.start, vma.end));
    if (answer == Registration::kBusy) task.untracked = kOwnUserfaultfd;
    if (answer != Registration::kDone) return false;
    TS_TRY_ASSIGN(bool anew, unprotect_range(task.uffd.get(), vma.start, vma.end));
    if (!anew) continue;  // replaced by another just now
    ++pass.stats.mappings;
    return true;
  }
  // Some of it may be registered and bear old marks, and nothing would tell. This takes off all marks of the process.
  task.uffd.reset();
  return false;
}

Result<Pagemap::Walk> ScanTracker::take_marked(Task& task, uint64_t start, uint64_t end, uint64_t max_pages,
                                               std::vector<PageRange>& out, const Cancel& cancel) {
  std::vector<PageRange> found;
  TS_TRY_ASSIGN(Pagemap::Walk walk, task.pagemap->take_written(start, end, Backing::kFile, max_pages, found));
  for (const auto& range : found) append_range(out, range.address, range.pages);
  TS_TRY(task.marks.remember(reader_, {task.space, task.reader, found}, cancel));
  return walk;
}

Result<> ScanTracker::scan_vma(Task& task, const Vma& vma, Pass& pass) {
  // Not from its beginning again: a page that has gone to the sink and is written meanwhile would go there twice in one
  // round, and on the way the older content may overtake.
  uint64_t from = vma.start;
  bool marked = vma.inode != 0;
  for (int attempt = 0; attempt < kScanAttempts; ++attempt) {
    TS_TRY_ASSIGN(bool unregistered,
                  pass.collector.walk(from, vma.end, [&](uint64_t start, uint64_t max_pages, auto& out) {
                    from = start;
                    return marked ? take_marked(task, start, vma.end, max_pages, out, pass.cancel)
                                  : task.pagemap->take_written(start, vma.end, Backing::kAnonymous, max_pages, out);
                  }));
    if (!unregistered) return {};
    marked = true;  // something has taken the place of what /proc/PID/maps told: perhaps a file mapping
    TS_TRY_ASSIGN(bool registered, register_vma(task, vma, pass));
    // Memory that never can be registered counts as written in the last round, so nothing is lost.
    if (!registered) return {};
  }
  return {};
}

Result<> ScanTracker::scan_task(Task& task, Pass& pass) {
  TS_TRY_ASSIGN(std::vector<Vma> vmas, read_vmas(task.reader));
  bool attached = task.uffd.valid();
  if (attached) {
    TS_TRY_ASSIGN(attached, attached_still(task, vmas));
  }
  bool fresh = !attached;
  if (fresh) {
    TS_TRY_ASSIGN(attached, attach(task, pass));
    if (!attached) return {};
    TS_TRY_ASSIGN(vmas, read_vmas(task.reader));
  }
  uint32_t mappings = pass.stats.mappings;
  pass.collector.begin(task);
  for (const auto& vma : vmas) {
    TS_TRY(pass.cancel.check());
    if (vma.path == "anon_inode:[io_uring]") task.untracked = kIoUring;
    if (!is_private_memory(vma)) continue;
    if (fresh) TS_TRY(register_vma(task, vma, pass));
    if (!task.untracked.empty() || !task.uffd.valid()) break;
    TS_TRY(scan_vma(task, vma, pass));
  }
  if (fresh) pass.stats.mappings = mappings;
  return pass.collector.flush();
}

MemoryDescriptors ScanTracker::look_at_descriptors(Task& task) {
  auto found = memory_descriptors(task.reader);
  if (found.userfaultfd) task.untracked = kOwnUserfaultfd;
  if (found.io_uring) task.untracked = kIoUring;
  return found;
}

// The device writes into memory that was pinned before we protected it, and nothing tells. So what a process with
// direct I/O had written at a scan is copied once again when the reads that were under way then are over.
Result<> ScanTracker::repeat_direct_io(Task& task, Pass& pass) {
  size_t kept = 0;
  pass.collector.begin(task);
  while (!task.recent.empty() && Clock::now() - task.recent.front().at > kDirectIoEnds) {
    TS_TRY(pass.collector.add(task.recent.front().ranges));
    task.recent.pop_front();
  }
  for (const auto& recent : task.recent) kept += recent.ranges.size();
  if (kept > kMaxRecentRanges) task.untracked = kTooMuchDirectIo;
  return pass.collector.flush();
}

Result<> ScanTracker::round_of(Task& task, Pass& pass) {
  auto before = look_at_descriptors(task);
  if (!task.untracked.empty()) return {};
  auto at = Clock::now();
  std::vector<PageRange> reported;
  pass.collector.keep = &reported;
  auto result = pass.collector.without_ended(scan_task(task, pass));
  pass.collector.keep = nullptr;
  TS_TRY(std::move(result));
  auto after = look_at_descriptors(task);
  if ((before.direct_io || after.direct_io) && !reported.empty()) task.recent.push_back({at, std::move(reported)});
  return repeat_direct_io(task, pass);
}

Result<RoundStats> ScanTracker::round(const RunSink& sink, const Cancel& cancel) {
  TS_TRY(refresh_tasks(group_, tasks_));
  Pass pass(sink, cancel);
  pass.stats.processes = static_cast<uint32_t>(tasks_.size());
  for (auto& [pid, task] : tasks_) TS_TRY(round_of(task, pass));
  return pass.stats;
}

Result<> ScanTracker::scan_frozen(Task& task, const std::vector<Vma>& vmas, bool (*wanted)(const Vma&), Pass& pass) {
  for (const auto& vma : vmas) {
    TS_TRY(pass.cancel.check());
    if (!wanted(vma)) continue;
    if (vma.inode != 0)
      TS_TRY(pass.collector.walk(vma.start, vma.end, [&](uint64_t start, uint64_t max_pages, auto& out) {
        return task.pagemap->dropped(start, vma.end, max_pages, out);
      }));
    TS_TRY_ASSIGN(bool unregistered,
                  pass.collector.walk(vma.start, vma.end, [&](uint64_t start, uint64_t max_pages, auto& out) {
                    return task.pagemap->written(start, vma.end, backing_of(vma), max_pages, out);
                  }));
    // It has come since the last round, or has lost its registration: then its marks tell nothing.
    if (!unregistered) continue;
    TS_TRY(pass.collector.walk(vma.start, vma.end, [&](uint64_t start, uint64_t max_pages, auto& out) {
      return task.pagemap->populated(start, vma.end, backing_of(vma), max_pages, out);
    }));
  }
  return {};
}

// Of a private file mapping, a protected page that is dropped leaves a mark, and is protected when it comes back. The
// first write brings the file's content; only the fault of the same write tried again takes the protection off. A task
// that stands still between the two has a page that looks as if nothing had happened since it was sent. So what is in
// these pages is compared; it is little, seldom more than the data of libraries.
Result<> ScanTracker::find_restored(Task& task, const Vma& vma, Pass& pass) {
  for (uint64_t at = vma.start; at < vma.end;) {
    std::vector<PageRange> unwritten;
    TS_TRY_ASSIGN(Pagemap::Walk walk, task.pagemap->unwritten(at, vma.end, RunCollector::kMaxPages, unwritten));
    TS_TRY_ASSIGN(std::vector<PageRange> changed,
                  task.marks.changed(reader_, {task.space, task.reader, unwritten}, pass.cancel));
    TS_TRY(pass.collector.add(changed));
    at = walk.walked;
  }
  return {};
}

Result<> ScanTracker::last_tracked(Task& task, const std::vector<Vma>& vmas, Pass& pass) {
  pass.collector.begin(task);
  TS_TRY(scan_frozen(task, vmas, is_private_memory, pass));
  for (const auto& vma : vmas)
    if (vma.inode != 0 && is_private_memory(vma)) TS_TRY(find_restored(task, vma, pass));
  for (const auto& recent : task.recent) TS_TRY(pass.collector.add(recent.ranges));
  TS_TRY(collect_always_dumped(vmas, pass.collector));
  return pass.collector.flush();
}

Result<> ScanTracker::last_of(Task& task, Pass& pass) {
  look_at_descriptors(task);
  TS_TRY_ASSIGN(std::vector<Vma> vmas, read_vmas(task.reader));
  bool tracked = task.untracked.empty() && task.uffd.valid();
  if (tracked) {
    TS_TRY_ASSIGN(tracked, attached_still(task, vmas));
  }
  return tracked ? last_tracked(task, vmas, pass) : collect_whole(task, pass.collector, pass.cancel);
}

Result<RoundStats> ScanTracker::last_round(const RunSink& sink, const Cancel& cancel) {
  TS_TRY(refresh_tasks(group_, tasks_));
  Pass pass(sink, cancel);
  pass.stats.processes = static_cast<uint32_t>(tasks_.size());
  for (auto& [pid, task] : tasks_) TS_TRY(pass.collector.without_ended(last_of(task, pass)));
  return pass.stats;
}

Result<> ScanTracker::touched_of(Task& task, Pass& pass) {
  if (!task.untracked.empty() || !task.uffd.valid()) return collect_touched_by_dump(task, pass.collector, pass.cancel);
  TS_TRY_ASSIGN(std::vector<Vma> vmas, read_vmas(task.reader));
  pass.collector.begin(task);
  TS_TRY(scan_frozen(task, vmas, may_be_touched_by_dump, pass));
  return pass.collector.flush();
}

Result<RoundStats> ScanTracker::after_dump(const RunSink& sink, const Cancel& cancel) {
  Pass pass(sink, cancel);
  for (auto& [pid, task] : tasks_) TS_TRY(pass.collector.without_ended(touched_of(task, pass)));
  return pass.stats;
}

std::vector<Untracked> ScanTracker::findings() const {
  std::vector<Untracked> found;
  for (const auto& [pid, task] : tasks_) {
    if (!task.untracked.empty()) found.push_back({pid, command_of(pid), task.untracked});
  }
  return found;
}

}  // namespace transship::memory
