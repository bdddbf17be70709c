#include "memory/fill_record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <map>
#include <string>

namespace transship::memory {
namespace {

using testing::HasSubstr;

constexpr uint64_t kMib = 1U << 20;
constexpr uint64_t kHeap = 0x7f1234560000;
constexpr SpaceId kSpace{SpaceKind::kTask, 41};

std::unique_ptr<FillRecorder> recorder() {
  auto r = FillRecorder::create();
  EXPECT_TRUE(r) << r.error().message();
  return std::move(*r);
}

FillMap map_of(std::initializer_list<FillMap::Piece> pieces) {
  FillMap map;
  for (const auto& piece : pieces) map.add(piece);
  return map;
}

// One process with two pieces, its index is 1.
void write_one(FillRecorder& r, uint64_t next_index = 2) {
  std::vector<PageRange> expected = {{kHeap, 512}, {kHeap + 4 * kMib, 256}};
  r.begin(next_index, 1, 1);
  r.add(kSpace, true, false, expected);
  r.add(1, kSpace, false, false, map_of({{kHeap, 2 * kMib, kHeap}, {kHeap + 4 * kMib, kMib, kHeap + 4 * kMib}}));
  r.commit();
}

uffd_msg removed(uint64_t address, uint64_t bytes) {
  uffd_msg m{};
  m.event = UFFD_EVENT_UNMAP;
  m.arg.remove.start = address;
  m.arg.remove.end = address + bytes;
  return m;
}
uffd_msg moved(uint64_t from, uint64_t to, uint64_t bytes) {
  uffd_msg m{};
  m.event = UFFD_EVENT_REMAP;
  m.arg.remap.from = from;
  m.arg.remap.to = to;
  m.arg.remap.len = bytes;
  return m;
}
uffd_msg of_kind(uint8_t event) {
  uffd_msg m{};
  m.event = event;
  return m;
}
// As read() does it.
void read_into(FillRecorder& r, uint64_t task, std::initializer_list<uffd_msg> messages) {
  auto room = r.room(task);
  ASSERT_GE(room.size(), messages.size());
  std::ranges::copy(messages, room.begin());
}

FillRecord read(const FillRecorder& r) {
  auto record = read_fill_record(r.fd());
  EXPECT_TRUE(record) << record.error().message();
  return record ? std::move(*record) : FillRecord{};
}

TEST(FillRecord, WhatIsWrittenIsRead) {
  auto r = recorder();
  EXPECT_EQ(fill_record_state(r->fd()), RecordState::kNone);
  EXPECT_EQ(read_fill_record(r->fd()).error().code(), Errc::kUnavailable);
  std::vector<PageRange> none;
  r->begin(9, 2, 2);
  r->add(kSpace, true, true, std::vector<PageRange>{{kHeap, 3}});
  r->add({SpaceKind::kTask, 42}, false, false, none);
  r->add(3, kSpace, false, true, map_of({{kHeap, 4096, kHeap}}));
  r->add(8, kSpace, true, false, map_of({{kHeap + kMib, 8192, kHeap + 4096}}));
  r->commit();
  EXPECT_EQ(fill_record_state(r->fd()), RecordState::kThere);
  auto record = read(*r);
  EXPECT_EQ(record.next_index, 9);
  ASSERT_EQ(record.spaces.size(), 2);
  EXPECT_TRUE(record.spaces.at(41).claimed && record.spaces.at(41).forked);
  EXPECT_EQ(record.spaces.at(41).expected, (std::vector<PageRange>{{kHeap, 3}}));
  EXPECT_FALSE(record.spaces.at(42).claimed || record.spaces.at(42).forked);
  ASSERT_EQ(record.tasks.size(), 2);
  EXPECT_TRUE(record.tasks.at(3).done && record.tasks.at(3).todo.empty() && !record.tasks.at(3).forked);
  EXPECT_TRUE(record.tasks.at(8).forked && !record.tasks.at(8).done);
  EXPECT_EQ(record.tasks.at(8).todo.at(kHeap + kMib)->image, kHeap + 4096);
  EXPECT_EQ(record.tasks.at(8).todo.bytes(), 8192);
}

TEST(FillRecord, WhatWasReadCountsFromTheMomentItIsThere) {
  auto r = recorder();
  write_one(*r);
  read_into(*r, 1, {of_kind(UFFD_EVENT_PAGEFAULT), moved(kHeap, kHeap + 64 * kMib, kMib)});
  r->keep();
  // Killed before it has done anything about these.
  read_into(*r, 1, {removed(kHeap + 64 * kMib, 4096), of_kind(UFFD_EVENT_PAGEFAULT), removed(kHeap + 4 * kMib, kMib)});
  auto todo = read(*r).tasks.at(1).todo;
  EXPECT_EQ(todo.bytes(), 2 * kMib - 4096);
  EXPECT_EQ(todo.at(kHeap + 64 * kMib + 4096)->image, kHeap + 4096);
  EXPECT_EQ(todo.next(kHeap)->address, kHeap + kMib);
}

TEST(FillRecord, FaultsAloneTakeNoRoom) {
  auto r = recorder();
  write_one(*r);
  for (int i = 0; i < 2000; ++i) read_into(*r, 1, {of_kind(UFFD_EVENT_PAGEFAULT)});
  EXPECT_FALSE(r->wants_snapshot());
  EXPECT_EQ(read(*r).tasks.at(1).todo.bytes(), 3 * kMib);
}

TEST(FillRecord, ASnapshotHasWhatWasBefore) {
  auto r = recorder();
  // Each slot has had a log, which must not be taken for that of a later snapshot.
  for (int round = 0; round < 4; ++round) {
    write_one(*r);
    EXPECT_EQ(read(*r).tasks.at(1).todo.bytes(), 3 * kMib);
    for (uint64_t i = 0; i < 3; ++i) {
      read_into(*r, 1, {removed(kHeap + i * 8192, 4096)});
      r->keep();
      EXPECT_EQ(read(*r).tasks.at(1).todo.bytes(), 3 * kMib - (i + 1) * 4096);
    }
    // What is written into the other slot counts when it is whole.
    r->begin(2, 1, 1);
    r->add(kSpace, true, false, {});
    EXPECT_EQ(read(*r).tasks.at(1).todo.bytes(), 3 * kMib - 3 * 4096);
  }
}

TEST(FillRecord, AFullLogTakesNoMore) {
  auto r = recorder();
  write_one(*r);
  size_t kept = 0;
  for (; !r->room(1).empty(); ++kept) {
    read_into(*r, 1, {removed(kHeap + kept * 4096, 4096)});
    r->keep();
  }
  EXPECT_GT(kept, 100);
  EXPECT_TRUE(r->wants_snapshot());
  EXPECT_FALSE(r->note_done(1));
  EXPECT_EQ(read(*r).tasks.at(1).todo.bytes(), 3 * kMib - kept * 4096);
  write_one(*r);
  EXPECT_FALSE(r->wants_snapshot());
  EXPECT_FALSE(r->room(1).empty());
}

TEST(FillRecord, AChildIsLikeItsParentWasThen) {
  auto r = recorder();
  write_one(*r, 7);
  read_into(*r, 1, {removed(kHeap, kMib), of_kind(UFFD_EVENT_FORK), removed(kHeap + kMib, kMib)});
  auto record = read(*r);
  EXPECT_EQ(record.next_index, 8);
  EXPECT_TRUE(record.spaces.at(41).forked);
  EXPECT_TRUE(record.tasks.at(7).forked);
  EXPECT_EQ(record.tasks.at(7).todo.bytes(), 2 * kMib);
  EXPECT_EQ(record.tasks.at(1).todo.bytes(), kMib);
  // The child's descriptor went with the pager.
  EXPECT_EQ(check_descriptors(record, {1}).error().code(), Errc::kUnavailable);
  EXPECT_TRUE(check_descriptors(record, {1, 7}));
  EXPECT_TRUE(check_descriptors(record, {1, 3, 7}));  // one that was done before the snapshot
  EXPECT_EQ(check_descriptors(record, {1, 7, 8}).error().code(), Errc::kCorrupt);
}

TEST(FillRecord, WhatIsDoneNeedsNoDescriptor) {
  auto r = recorder();
  write_one(*r);
  EXPECT_FALSE(check_descriptors(read(*r), {}));
  EXPECT_TRUE(r->note_done(1));
  auto record = read(*r);
  EXPECT_TRUE(record.tasks.at(1).done && record.tasks.at(1).todo.empty());
  EXPECT_TRUE(check_descriptors(record, {}));
  EXPECT_TRUE(check_descriptors(record, {1}));
}

TEST(FillRecord, WhatIsWrongIsGivenUp) {
  auto r = recorder();
  write_one(*r);
  r->give_up();
  EXPECT_EQ(fill_record_state(r->fd()), RecordState::kNoMore);
  EXPECT_EQ(read_fill_record(r->fd()).error().code(), Errc::kUnavailable);
}

TEST(FillRecord, WhatDoesNotFitIsNoRecord) {
  auto r = recorder();
  write_one(*r);
  std::vector<PageRange> many(5'000'000);
  for (size_t i = 0; i < many.size(); ++i) many[i] = {i * 8192, 1};
  r->begin(2, 1, 0);
  r->add(kSpace, true, false, many);
  r->commit();
  EXPECT_EQ(fill_record_state(r->fd()), RecordState::kNoMore);
  EXPECT_EQ(read_fill_record(r->fd()).error().code(), Errc::kUnavailable);
  EXPECT_FALSE(r->room(1).empty());  // it goes on
}

// ---- Broken ones.

TEST(FillRecord, AnyOtherByteIsRefused) {
  auto r = recorder();
  write_one(*r);
  // The snapshot's words are the only ones behind the head. (AddressSanitizer lets nobody lock the head into memory.)
  off_t end = 0;
  for (off_t data = 0; data >= 0; data = ::lseek(r->fd(), end, SEEK_DATA)) end = ::lseek(r->fd(), data, SEEK_HOLE);
  uint64_t at = static_cast<uint64_t>(end) - 4096;
  constexpr size_t kWords = 3 + 3 + 2 * 2 + 4 + 2 * 3;
  for (size_t i = 0; i < kWords * 8; ++i) {
    uint8_t byte = 0;
    ASSERT_EQ(::pread(r->fd(), &byte, 1, static_cast<off_t>(at + i)), 1);
    uint8_t other = byte ^ 0x10;
    ASSERT_EQ(::pwrite(r->fd(), &other, 1, static_cast<off_t>(at + i)), 1);
    auto record = read_fill_record(r->fd());
    ASSERT_FALSE(record) << i;
    EXPECT_EQ(record.error().code(), Errc::kCorrupt) << i;
    ASSERT_EQ(::pwrite(r->fd(), &byte, 1, static_cast<off_t>(at + i)), 1);
  }
  EXPECT_EQ(read(*r).tasks.size(), 1);
}

// Whole, with a checksum that is right, and nonsense.
TEST(FillRecord, NonsenseIsRefused) {
  using Write = std::function<void(FillRecorder&)>;
  const FillMap good = map_of({{kHeap, 4096, kHeap}});
  const std::map<std::string, Write> writes = {
      {"a task of no space", [&](FillRecorder& r) { r.begin(2, 0, 1), r.add(1, kSpace, false, false, good); }},
      {"a task of a space that nobody has claimed",
       [&](FillRecorder& r) {
         r.begin(2, 1, 1), r.add(kSpace, false, false, {}), r.add(1, kSpace, false, false, good);
       }},
      {"a task that is still to come",
       [&](FillRecorder& r) {
         r.begin(1, 1, 1), r.add(kSpace, true, false, {}), r.add(1, kSpace, false, false, good);
       }},
      {"a task that is not there", [&](FillRecorder& r) { r.begin(2, 1, 1), r.add(kSpace, true, false, {}); }},
      {"one task more",
       [&](FillRecorder& r) {
         r.begin(2, 1, 0), r.add(kSpace, true, false, {}), r.add(1, kSpace, false, false, good);
       }},
      {"a space twice",
       [&](FillRecorder& r) { r.begin(2, 2, 0), r.add(kSpace, true, false, {}), r.add(kSpace, true, false, {}); }},
      {"ranges that overlap",
       [&](FillRecorder& r) {
         r.begin(2, 1, 0), r.add(kSpace, true, false, std::vector<PageRange>{{kHeap, 2}, {kHeap + 4096, 2}});
       }},
      {"a range of nothing",
       [&](FillRecorder& r) { r.begin(2, 1, 0), r.add(kSpace, true, false, std::vector<PageRange>{{kHeap, 0}}); }},
      {"a range beyond everything",
       [&](FillRecorder& r) {
         r.begin(2, 1, 0), r.add(kSpace, true, false, std::vector<PageRange>{{kHeap, uint64_t{1} << 52}});
       }},
      {"half a page",
       [&](FillRecorder& r) {
         r.begin(2, 1, 1), r.add(kSpace, true, false, {});
         r.add(1, kSpace, false, false, map_of({{kHeap, 2048, kHeap}}));
       }},
  };
  for (const auto& [what, write] : writes) {
    auto r = recorder();
    write(*r);
    r->commit();
    auto record = read_fill_record(r->fd());
    ASSERT_FALSE(record) << what;
    EXPECT_EQ(record.error().code(), Errc::kCorrupt) << what;
  }
}

TEST(FillRecord, NonsenseInTheLogIsRefused) {
  for (const auto& m : {of_kind(0x77), moved(kHeap + 1, kHeap + kMib, 4096), removed(kHeap, 0), removed(kHeap, 4095)}) {
    auto r = recorder();
    write_one(*r);
    read_into(*r, 1, {m});
    auto record = read_fill_record(r->fd());
    ASSERT_FALSE(record) << static_cast<int>(m.event);
    EXPECT_EQ(record.error().code(), Errc::kCorrupt);
  }
  auto r = recorder();
  write_one(*r);
  read_into(*r, 2, {removed(kHeap, 4096)});
  EXPECT_THAT(read_fill_record(r->fd()).error().message(), HasSubstr("not there"));
}

TEST(FillRecord, AnotherFileIsNoRecord) {
  Fd other(::memfd_create("other", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(read_fill_record(other.get()).error().code(), Errc::kCorrupt);
  ASSERT_EQ(::ftruncate(other.get(), 200 << 20), 0);
  ASSERT_EQ(::fcntl(other.get(), F_ADD_SEALS, F_SEAL_SHRINK), 0);
  EXPECT_EQ(read_fill_record(other.get()).error().code(), Errc::kCorrupt);
}

}  // namespace
}  // namespace transship::memory
