#include "memory/fill_task.h"

#include <algorithm>

namespace transship::memory {
namespace {

using namespace std::chrono_literals;

constexpr uint64_t kMostAtOnce = 512U << 10;
constexpr int kMostSteps = 256;
constexpr size_t kMostUnmapped = 4096;
// How long a page may have no registered mapping after CRIU has registered all, before it counts as lost.
constexpr auto kUnmappedLimit = 1s;
// After the restore: what clients wait for gets the processors, and the memory's locks, to itself. Pages that are used
// are filled as ever.
constexpr auto kFirstAnswers = 100ms;
// Below any mapping that an ordinary program has, above what the kernel refuses.
constexpr uint64_t kProbeAddress = 0x10000;
constexpr auto kNever = Clock::time_point::max();

void set_nonblocking(int fd) {
  if (int flags = ::fcntl(fd, F_GETFL); flags >= 0) (void)::fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

}  // namespace

FillTask::FillTask(Fd uffd, Start start, std::shared_ptr<FillSpace> space, PageStore& store, FillHost& host)
    : uffd_(std::move(uffd)),
      index_(start.index),
      space_(std::move(space)),
      store_(store),
      host_(host),
      todo_(std::move(start.todo)),
      forked_(start.forked),
      restored_(start.restored),
      next_fill_(Clock::now()),
      last_progress_(next_fill_) {
  set_nonblocking(uffd_.get());
  ++space_->tasks;
}

FillTask::FillTask(Fd uffd, uint64_t index, const FillTask& parent)
    : FillTask(std::move(uffd), {.index = index, .todo = parent.todo_, .forked = true, .restored = parent.restored_},
               parent.space_, parent.store_, parent.host_) {
  space_->forked = true;
}

FillMap FillTask::all_of(const FillSpace& space) {
  FillMap all;
  for (const auto& range : space.expected)
    all.add({.address = range.address, .bytes = range.bytes(), .image = range.address});
  return all;
}

FillTask::~FillTask() {
  auto& counters = store_.counters();
  if (gone_) ++counters.tasks_gone;
  if (!forked_) counters.done_pages += todo_.bytes() / kPageBytes;
  if (--space_->tasks > 0) return;
  for (const auto& range : space_->expected) store_.mark_filled(space_->id, range);
}

void FillTask::report(std::string text) {
  if (std::exchange(reported_, true)) return;
  trouble_ = fmt::format("process {}: {}", space_->id.id, text);
}

bool FillTask::read_events() {
  bool any = false;
  while (true) {
    auto room = host_.room_for_events(index_);
    if (room.empty()) return any;
    auto n = retry_eintr([&] { return ::read(uffd_.get(), room.data(), room.size_bytes()); });
    if (n < 0 && errno != EAGAIN) report(fmt::format("read its faults: {}", errno_text(errno)));
    if (n <= 0) return any;
    any = true;
    auto now = Clock::now();
    bool more_than_faults = false;
    for (const auto& m : room.first(static_cast<size_t>(n) / sizeof(uffd_msg))) {
      if (m.event == UFFD_EVENT_PAGEFAULT) {
        faults_.push_back({.address = m.arg.pagefault.address & ~(kPageBytes - 1), .since = now});
        last_fault_ = now;
        continue;
      }
      more_than_faults = true;
      take_event(m);
      look_again_at_waiting();
      next_fill_ = now;
    }
    if (more_than_faults) host_.events_done();
  }
}

// What changes here must change in the same way when the record is read (fill_record.cc).
void FillTask::take_event(const uffd_msg& m) {
  switch (m.event) {
    case UFFD_EVENT_FORK: return host_.forked(*this, Fd(static_cast<int>(m.arg.fork.ufd)));
    case UFFD_EVENT_REMAP: return todo_.move(m.arg.remap.from, m.arg.remap.to, m.arg.remap.len);
    case UFFD_EVENT_REMOVE:
    case UFFD_EVENT_UNMAP: return forget(m.arg.remove.start, m.arg.remove.end - m.arg.remove.start);
    default: report(fmt::format("an unknown event {} on its memory", m.event));
  }
}

void FillTask::forget(uint64_t address, uint64_t bytes) {
  auto removed = todo_.remove(address, bytes);
  if (!forked_) store_.counters().done_pages += removed / kPageBytes;
}

void FillTask::look_again_at_waiting() {
  for (const auto& [address, fault] : waiting_) faults_.push_back(fault);
  waiting_.clear();
}

void FillTask::handle() {
  read_events();
  serve_faults();
}

void FillTask::arrived() {
  if (done()) return;
  next_fill_ = Clock::now();
  look_again_at_waiting();
  serve_faults();
}

void FillTask::serve_faults() {
  retry_at_ = kNever;
  while (!faults_.empty() && !gone_) {
    if (serve(faults_.front())) {
      faults_.pop_front();
    } else if (!read_events()) {
      // The event is on its way, or there is no memory: both may last.
      retry_at_ = Clock::now() + 100us;
      return;
    }
  }
}

bool FillTask::serve(const Fault& fault) {
  auto expected = todo_.at(fault.address);
  if (!expected) return served(fault, expected, uffd_zero(uffd_.get(), fault.address, kPageBytes));
  auto run = store_.run(space_->id, expected->image, 1);
  switch (run.state) {
    case PageState::kContent:
      return served(fault, expected, uffd_copy(uffd_.get(), fault.address, run.content, kPageBytes));
    case PageState::kZero: return served(fault, expected, uffd_zero(uffd_.get(), fault.address, kPageBytes));
    case PageState::kFilled:
      report(fmt::format("page {:#x} was given away before it was there", expected->image));
      break;
    case PageState::kAbsent:
      if (store_.sealed()) report(fmt::format("page {:#x} is needed and never came", expected->image));
      if (space_->requested.insert(expected->image).second) {
        requests_.push_back(expected->image);
        ++store_.counters().requests;
      }
  }
  waiting_.try_emplace(fault.address, fault);
  return true;
}

bool FillTask::served(const Fault& fault, const std::optional<FillMap::Piece>& expected, const FillResult& result) {
  auto& counters = store_.counters();
  switch (result.end) {
    case FillEnd::kEvents:
    case FillEnd::kNoMemory: return false;
    case FillEnd::kGone: gone_ = true; return true;
    case FillEnd::kFailed:
      report(fmt::format("fill its page {:#x}: {}", fault.address, errno_text(result.error)));
      waiting_.try_emplace(fault.address, fault);
      return true;
    case FillEnd::kExists:
    case FillEnd::kUnmapped:
      // Unmapped while it waited: the process finds out by itself.
      (void)uffd_wake(uffd_.get(), fault.address, kPageBytes);
      break;
    case FillEnd::kDone: break;
  }
  if (!expected) {
    ++counters.zero_faults;
    return true;
  }
  ++counters.faults;
  counters.waits.add(std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - fault.since));
  if (result.end == FillEnd::kUnmapped) return true;
  filled(fault.address, expected->image, kPageBytes);
  // Who reads one page will soon read the next.
  cursor_ = fault.address + kPageBytes;
  moved_on_ = true;
  return true;
}

void FillTask::filled(uint64_t address, uint64_t image, uint64_t bytes) {
  forget(address, bytes);
  if (!space_->forked) store_.mark_filled(space_->id, {image, bytes / kPageBytes});
  last_progress_ = Clock::now();
}

void FillTask::work(uint64_t bytes) {
  auto now = Clock::now();
  if (now >= retry_at_) {
    read_events();
    serve_faults();
  }
  if (now >= next_fill_ && !done()) fill_some(bytes);
  if (done()) next_fill_ = kNever;
}

void FillTask::fill_some(uint64_t bytes) {
  auto left = todo_.bytes();
  for (int step = 0; step < kMostSteps && left - todo_.bytes() < bytes; ++step) {
    auto piece = todo_.next(cursor_);
    if (piece) {
      if (!fill_piece(*piece, bytes)) return;
      continue;
    }
    cursor_ = 0;
    bool idle = !std::exchange(moved_on_, false);
    if (idle) nothing_left_to_try();
    unmapped_.clear();
    absent_.reset();
    if (idle || todo_.empty()) return;
  }
}

bool FillTask::fill_piece(const FillMap::Piece& piece, uint64_t bytes) {
  auto run = store_.run(space_->id, piece.image, std::min({piece.bytes, bytes, kMostAtOnce}) / kPageBytes);
  auto found = run.pages * kPageBytes;
  cursor_ = piece.address + found;
  switch (run.state) {
    case PageState::kAbsent: absent_ = piece.image; return true;
    case PageState::kFilled:
      report(fmt::format("page {:#x} was given away before it was there", piece.image));
      return true;
    case PageState::kZero:
      // What is not there when the descriptor is closed reads as zero anyway.
      filled(piece.address, piece.image, found);
      moved_on_ = true;
      return true;
    case PageState::kContent: break;
  }
  found = std::min(found, most_);
  return copied(piece, uffd_copy(uffd_.get(), piece.address, run.content, found), found);
}

bool FillTask::copied(const FillMap::Piece& piece, const FillResult& result, uint64_t wanted) {
  auto good = result.end == FillEnd::kExists ? kPageBytes : result.bytes;
  cursor_ = piece.address + good;
  if (good > 0) {
    filled(piece.address, piece.image, good);
    moved_on_ = true;
  }
  switch (result.end) {
    case FillEnd::kDone: most_ = std::min(most_ * 2, kMostAtOnce); return true;
    case FillEnd::kExists: return true;
    case FillEnd::kUnmapped:
      if (wanted > kPageBytes) {
        // Perhaps it crosses into another mapping.
        most_ = std::max(kPageBytes, wanted / 2 / kPageBytes * kPageBytes);
        return true;
      }
      if (unmapped_.size() < kMostUnmapped) unmapped_.push_back(piece.address);
      cursor_ = restored_ ? piece.address + kPageBytes : piece.end();
      return true;
    case FillEnd::kEvents: next_fill_ = Clock::now() + 100us; return false;
    case FillEnd::kNoMemory: next_fill_ = Clock::now() + 10ms; return false;
    case FillEnd::kGone: gone_ = true; return false;
    case FillEnd::kFailed:
      report(fmt::format("fill {} bytes at {:#x}: {}", wanted, piece.address, errno_text(result.error)));
      next_fill_ = kNever;
      return false;
  }
  return false;
}

void FillTask::nothing_left_to_try() {
  auto now = Clock::now();
  next_fill_ = kNever;
  if (!unmapped_.empty()) {
    next_fill_ = now + (restored_ ? 20ms : 1ms);
    if (restored_ && now - last_progress_ > kUnmappedLimit) unmapped_for_good();
  }
  if (absent_ && store_.sealed()) report(fmt::format("page {:#x} never came", *absent_));
}

// A child may have been forked without some mappings (MADV_DONTFORK). Anywhere else it must not happen.
void FillTask::unmapped_for_good() {
  if (!forked_) return report(fmt::format("the memory at {:#x} was never handed over for filling", unmapped_.front()));
  for (auto address : unmapped_) forget(address, kPageBytes);
  last_progress_ = Clock::now();
  next_fill_ = last_progress_;
}

void FillTask::probe() {
  if (done() || todo_.at(kProbeAddress)) return;
  if (uffd_zero(uffd_.get(), kProbeAddress, kPageBytes).end == FillEnd::kGone) gone_ = true;
}

void FillTask::restored() {
  restored_ = true;
  last_progress_ = Clock::now();
  next_fill_ = last_progress_ + kFirstAnswers;
}

void FillTask::repeat_requests() {
  for (const auto& [address, fault] : waiting_) {
    if (auto piece = todo_.at(address)) requests_.push_back(piece->image);
  }
}

}  // namespace transship::memory
