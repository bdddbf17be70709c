#include "memory/fill_record.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstring>

namespace transship::memory {
namespace {

constexpr uint64_t kMagic = 0x3264726f63655254;  // "TRecord2"
constexpr uint32_t kBatches = 256;
constexpr uint32_t kLogIsLong = kBatches * 3 / 4;
// 2.7 million pieces; takes no memory until it is used.
constexpr uint64_t kSlotWords = (64U << 20) / sizeof(uint64_t);
// Beside the kernel's numbers of events.
constexpr uint8_t kDoneEvent = 0xf0;
constexpr uint64_t kAddressEnd = uint64_t{1} << 62;

constexpr uint64_t kClaimed = 1;
constexpr uint64_t kForked = 2;
constexpr uint64_t kDone = 4;

uint64_t mixed(uint64_t sum, uint64_t word) { return (sum ^ word) * 0x9e3779b97f4a7c15 ^ (sum >> 29); }

std::unexpected<Error> broken(std::string_view what) {
  return fail(Errc::kCorrupt, "what the pager has left behind is broken: {}", what);
}

bool usable(uint64_t address, uint64_t bytes) {
  return address % kPageBytes == 0 && bytes % kPageBytes == 0 && bytes > 0 && bytes <= kAddressEnd &&
         address <= kAddressEnd - bytes;
}

}  // namespace

struct FillRecorder::Batch {
  std::atomic<uint64_t> task;
  std::array<uffd_msg, kEvents> messages;
};

// `slot` is behind it. Everything that is read while the pager writes is atomic; the rest is read when it is dead.
struct FillRecorder::Shared {
  struct Log {
    std::atomic<uint32_t> used;               // batches with events
    std::array<Batch, kBatches + 1> batches;  // the one after `used` may have some too, up to the first that is zero
  };
  struct Slot {
    uint64_t words;
    uint64_t sum;
  };
  uint64_t magic;
  std::atomic<uint32_t> current;  // 0: none; else the slot that counts, plus 1
  std::atomic<uint32_t> given_up;
  std::atomic<uint32_t> too_long;  // a snapshot did not fit
  std::array<Slot, 2> slots;
  std::array<Log, 2> logs;

  static constexpr uint64_t head_bytes() { return (sizeof(Shared) + 4095) / 4096 * 4096; }
  static constexpr uint64_t bytes() { return head_bytes() + 2 * kSlotWords * sizeof(uint64_t); }
  uint64_t* content(uint32_t slot) {
    return reinterpret_cast<uint64_t*>(reinterpret_cast<std::byte*>(this) + head_bytes()) + slot * kSlotWords;
  }
};

// ---- Written.

Result<std::unique_ptr<FillRecorder>> FillRecorder::create() {
  Fd fd(::memfd_create("transship-fill-record", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return fail_errno(errno, "make a memory file");
  if (::ftruncate(fd.get(), static_cast<off_t>(Shared::bytes())) < 0 ||
      ::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
    return fail_errno(errno, "give a memory file its size of {} bytes", Shared::bytes());
  void* p = ::mmap(nullptr, Shared::bytes(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd.get(), 0);
  if (p == MAP_FAILED) return fail_errno(errno, "map {} bytes of a memory file", Shared::bytes());
  std::unique_ptr<FillRecorder> recorder(new FillRecorder(std::move(fd), static_cast<Shared*>(p)));
  // An event that the kernel cannot write here would be lost, and it does not wait for memory on behalf of somebody who
  // is being killed.
  if (::mlock(p, Shared::head_bytes()) < 0) return fail_errno(errno, "lock {} bytes of memory", Shared::head_bytes());
  recorder->shared_->magic = kMagic;
  return recorder;
}

FillRecorder::~FillRecorder() { ::munmap(shared_, Shared::bytes()); }

// Null: full. Whatever it held is gone, so that nothing in it can be taken for new.
FillRecorder::Batch* FillRecorder::next_batch(uint64_t task) {
  auto& log = shared_->logs[shared_->current.load(std::memory_order_relaxed) - 1];
  auto used = log.used.load(std::memory_order_relaxed);
  if (used == kBatches) return nullptr;
  auto& batch = log.batches[used];
  for (auto& m : batch.messages) m.event = 0;
  batch.task.store(task, std::memory_order_release);
  return &batch;
}

std::span<uffd_msg> FillRecorder::room(uint64_t task) {
  if (shared_->current.load(std::memory_order_relaxed) == 0) return unrecorded_;
  auto* batch = next_batch(task);
  return batch != nullptr ? std::span<uffd_msg>(batch->messages) : std::span<uffd_msg>();
}

void FillRecorder::keep() {
  auto current = shared_->current.load(std::memory_order_relaxed);
  if (current == 0) return;
  auto& log = shared_->logs[current - 1];
  auto used = log.used.load(std::memory_order_relaxed) + 1;
  // Of an earlier snapshot's log, perhaps.
  for (auto& m : log.batches[used].messages) m.event = 0;
  log.used.store(used, std::memory_order_release);
}

bool FillRecorder::note_done(uint64_t task) {
  if (shared_->current.load(std::memory_order_relaxed) == 0) return true;
  auto* batch = next_batch(task);
  if (batch == nullptr) return false;
  batch->messages[0].event = kDoneEvent;
  keep();
  return true;
}

bool FillRecorder::wants_snapshot() const {
  auto current = shared_->current.load(std::memory_order_relaxed);
  return current != 0 && shared_->logs[current - 1].used.load(std::memory_order_relaxed) >= kLogIsLong;
}

void FillRecorder::put(uint64_t word) {
  if (words_ < kSlotWords) {
    shared_->content(writing_)[words_] = word;
    auto& sum = shared_->slots[writing_].sum;
    sum = mixed(sum, word);
  }
  ++words_;
}

void FillRecorder::begin(uint64_t next_index, size_t spaces, size_t tasks) {
  writing_ = shared_->current.load(std::memory_order_relaxed) == 1 ? 1 : 0;
  words_ = 0;
  shared_->slots[writing_].sum = kMagic;
  put(next_index);
  put(spaces);
  put(tasks);
}

void FillRecorder::add(SpaceId space, bool claimed, bool forked, std::span<const PageRange> expected) {
  put(space.id);
  put((claimed ? kClaimed : 0) | (forked ? kForked : 0));
  put(expected.size());
  for (const auto& range : expected) {
    put(range.address);
    put(range.pages);
  }
}

void FillRecorder::add(uint64_t index, SpaceId space, bool forked, bool done, const FillMap& todo) {
  put(index);
  put(space.id);
  put((forked ? kForked : 0) | (done ? kDone : 0));
  put(todo.pieces().size());
  for (const auto& [address, piece] : todo.pieces()) {
    put(piece.address);
    put(piece.bytes);
    put(piece.image);
  }
}

void FillRecorder::commit() {
  if (words_ > kSlotWords) {
    shared_->too_long.store(1);
    return shared_->current.store(0, std::memory_order_release);
  }
  shared_->slots[writing_].words = words_;
  auto& log = shared_->logs[writing_];
  log.used.store(0, std::memory_order_relaxed);
  for (auto& m : log.batches[0].messages) m.event = 0;
  shared_->current.store(writing_ + 1, std::memory_order_release);
}

void FillRecorder::give_up() { shared_->given_up.store(1); }

// ---- Read.

namespace {

// Words of a snapshot; behind the last one come zeros, and it is not whole.
class Reader {
 public:
  explicit Reader(std::span<const uint64_t> words) : words_(words) {}
  uint64_t next() {
    if (at_ == words_.size()) whole_ = false;
    return whole_ ? words_[at_++] : 0;
  }
  // As many things of `each` words as follow.
  uint64_t count(uint64_t each) {
    auto n = next();
    if (n > (words_.size() - at_) / each) whole_ = false;
    return whole_ ? n : 0;
  }
  bool whole() const { return whole_; }
  bool at_end() const { return whole_ && at_ == words_.size(); }

 private:
  std::span<const uint64_t> words_;
  size_t at_ = 0;
  bool whole_ = true;
};

Result<> read_space(Reader& in, FillRecord& record) {
  auto id = in.next();
  auto flags = in.next();
  FillRecord::Space space{.claimed = (flags & kClaimed) != 0, .forked = (flags & kForked) != 0};
  uint64_t end = 0;
  for (auto n = in.count(2); n > 0; --n) {
    PageRange range{.address = in.next(), .pages = in.next()};
    if (range.pages > kAddressEnd / kPageBytes || !usable(range.address, range.bytes()) || range.address < end)
      return broken("ranges of a process do not ascend");
    end = range.end();
    space.expected.push_back(range);
  }
  if (!in.whole() || flags > (kClaimed | kForked) || !record.spaces.emplace(id, std::move(space)).second)
    return broken("a process");
  return {};
}

Result<> read_task(Reader& in, FillRecord& record) {
  auto index = in.next();
  FillRecord::Task task{.space = in.next()};
  auto flags = in.next();
  task.forked = (flags & kForked) != 0;
  task.done = (flags & kDone) != 0;
  uint64_t end = 0;
  for (auto n = in.count(3); n > 0; --n) {
    FillMap::Piece piece{.address = in.next(), .bytes = in.next(), .image = in.next()};
    if (!usable(piece.address, piece.bytes) || !usable(piece.image, piece.bytes) || piece.address < end)
      return broken("pieces of a process do not ascend");
    end = piece.end();
    task.todo.add(piece);
  }
  if (task.done) task.todo = {};
  auto space = record.spaces.find(task.space);
  if (!in.whole() || (flags & ~(kForked | kDone)) != 0 || index == 0 || index >= record.next_index ||
      space == record.spaces.end() || !space->second.claimed || !record.tasks.emplace(index, std::move(task)).second)
    return broken("a task");
  return {};
}

Result<FillRecord> read_snapshot(std::span<const uint64_t> words) {
  Reader in(words);
  FillRecord record;
  record.next_index = in.next();
  auto spaces = in.next();
  auto tasks = in.next();
  for (; spaces > 0; --spaces) TS_TRY(read_space(in, record));
  for (; tasks > 0; --tasks) TS_TRY(read_task(in, record));
  if (!in.at_end()) return broken("its length");
  return record;
}

// As FillTask does it.
Result<> take_event(FillRecord& record, uint64_t index, const uffd_msg& m) {
  if (m.event == UFFD_EVENT_PAGEFAULT) return {};
  auto it = record.tasks.find(index);
  if (it == record.tasks.end()) return broken("an event of a task that is not there");
  auto& task = it->second;
  switch (m.event) {
    case UFFD_EVENT_FORK: {
      record.spaces.at(task.space).forked = true;
      FillRecord::Task child{.space = task.space, .forked = true, .todo = task.todo};
      if (!record.tasks.emplace(record.next_index++, std::move(child)).second) return broken("a fork");
      return {};
    }
    case UFFD_EVENT_REMAP:
      if (!usable(m.arg.remap.from, m.arg.remap.len) || !usable(m.arg.remap.to, m.arg.remap.len))
        return broken("an event moves no pages");
      task.todo.move(m.arg.remap.from, m.arg.remap.to, m.arg.remap.len);
      return {};
    case UFFD_EVENT_REMOVE:
    case UFFD_EVENT_UNMAP:
      if (m.arg.remove.end <= m.arg.remove.start || !usable(m.arg.remove.start, m.arg.remove.end - m.arg.remove.start))
        return broken("an event removes no pages");
      task.todo.remove(m.arg.remove.start, m.arg.remove.end - m.arg.remove.start);
      return {};
    case kDoneEvent:
      task.done = true;
      task.todo = {};
      return {};
    default: return broken("an unknown event");
  }
}

struct Unmap {
  uint64_t bytes;
  void operator()(void* p) const { ::munmap(p, bytes); }
};

}  // namespace

RecordState fill_record_state(int fd) {
  using Shared = FillRecorder::Shared;
  auto number = [fd](size_t offset) -> uint32_t {
    uint32_t value = 0;
    auto n = retry_eintr([&] { return ::pread(fd, &value, sizeof value, static_cast<off_t>(offset)); });
    return n == sizeof value ? value : 0;
  };
  if (number(offsetof(Shared, given_up)) != 0 || number(offsetof(Shared, too_long)) != 0) return RecordState::kNoMore;
  return number(offsetof(Shared, current)) != 0 ? RecordState::kThere : RecordState::kNone;
}

Result<FillRecord> read_fill_record(int fd) {
  using Shared = FillRecorder::Shared;
  struct stat st{};
  int seals = ::fcntl(fd, F_GET_SEALS);
  if (::fstat(fd, &st) < 0 || seals < 0 || (seals & F_SEAL_SHRINK) == 0 ||
      static_cast<uint64_t>(st.st_size) != Shared::bytes())
    return broken("it is of another size");
  void* p = ::mmap(nullptr, Shared::bytes(), PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (p == MAP_FAILED) return fail_errno(errno, "map what the pager has left behind");
  std::unique_ptr<void, Unmap> mapped(p, Unmap{Shared::bytes()});
  auto& shared = *static_cast<Shared*>(p);
  if (shared.magic != kMagic) return broken("it is of another version");
  if (shared.given_up.load() != 0) return fail(Errc::kUnavailable, "something was wrong before");
  auto current = shared.current.load(std::memory_order_acquire);
  if (shared.too_long.load() != 0) return fail(Errc::kUnavailable, "its memory is in too many pieces");
  if (current == 0) return fail(Errc::kUnavailable, "the restore was not complete");
  if (current > 2) return broken("its slot");
  const auto& slot = shared.slots[current - 1];
  if (slot.words > kSlotWords) return broken("its length");
  std::span<const uint64_t> words(shared.content(current - 1), slot.words);
  uint64_t sum = kMagic;
  for (auto word : words) sum = mixed(sum, word);
  if (sum != slot.sum) return broken("its checksum");
  TS_TRY_ASSIGN(auto record, read_snapshot(words));
  const auto& log = shared.logs[current - 1];
  auto used = log.used.load(std::memory_order_acquire);
  if (used > kBatches) return broken("the length of its log");
  for (uint32_t i = 0; i <= used; ++i) {
    const auto& batch = log.batches[i];
    for (const auto& m : batch.messages) {
      if (m.event == 0) break;
      TS_TRY(take_event(record, batch.task.load(), m));
    }
  }
  return record;
}

Result<> check_descriptors(const FillRecord& record, const std::set<uint64_t>& there) {
  for (const auto& [index, task] : record.tasks) {
    if (!task.done && !there.contains(index))
      return fail(Errc::kUnavailable, "a process that was forked from process {} had not been handed over yet",
                  task.space);
  }
  for (auto index : there) {
    if (index >= record.next_index) return broken("a process is not in it");
  }
  return {};
}

}  // namespace transship::memory
