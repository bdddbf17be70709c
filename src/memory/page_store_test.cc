#include "memory/page_store.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/thread.h"

namespace transship::memory {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr SpaceId kTask{SpaceKind::kTask, 7};
constexpr SpaceId kOther{SpaceKind::kShared, 7};
constexpr uint64_t kBase = 0x7f0000000000;

std::vector<std::byte> pages_of(uint64_t pages, int value) {
  return std::vector<std::byte>(pages * kPageBytes, static_cast<std::byte>(value));
}

class PageStoreTest : public testing::Test {
 protected:
  PageStoreTest() : store_(*PageStore::create(1U << 20)) {}

  Result<> put(SpaceId space, PageRange range, int value) {
    auto data = pages_of(range.pages, value);
    return store_.put({.space = space, .segments = {{.range = range, .zero = false}}, .content = data});
  }
  Result<> put_zero(SpaceId space, PageRange range) {
    return store_.put({.space = space, .segments = {{.range = range, .zero = true}}, .content = {}});
  }
  int value_at(SpaceId space, uint64_t address) {
    std::vector<std::byte> page(kPageBytes);
    auto r = store_.copy_out(space, {address, 1}, page);
    if (!r || std::ranges::adjacent_find(page, std::ranges::not_equal_to{}) != page.end()) return -1;
    return static_cast<int>(page[0]);
  }
  uint64_t memory_taken() const {
    struct stat st{};
    return ::fstat(store_.data_fd(), &st) == 0 ? static_cast<uint64_t>(st.st_blocks) * 512 : 0;
  }

  PageStore store_;
};

TEST_F(PageStoreTest, NothingIsThereAtFirst) {
  EXPECT_EQ(store_.state(kTask, kBase), PageState::kAbsent);
  PageRange range{kBase, 100'000};
  EXPECT_THAT(store_.missing(kTask, {{range}}), ElementsAre(range));
  EXPECT_THAT(store_.spaces(), IsEmpty());
  EXPECT_EQ(store_.bytes_held(), 0U);
}

TEST_F(PageStoreTest, SegmentsOfOneBatchGetTheirOwnContent) {
  auto data = pages_of(2, 1);
  std::ranges::fill(std::span(data).subspan(kPageBytes), std::byte{2});
  PageBatch batch{.space = kTask,
                  .segments = {{.range = {kBase, 1}, .zero = false},
                               {.range = {kBase + 0x5000, 3}, .zero = true},
                               {.range = {kBase + 0x10000, 1}, .zero = false}},
                  .content = data};
  ASSERT_TRUE(store_.put(batch));
  EXPECT_EQ(value_at(kTask, kBase), 1);
  EXPECT_EQ(value_at(kTask, kBase + 0x10000), 2);
  EXPECT_EQ(value_at(kTask, kBase + 0x7000), 0);
  EXPECT_EQ(store_.state(kTask, kBase + 0x1000), PageState::kAbsent);
  EXPECT_EQ(store_.state(kOther, kBase), PageState::kAbsent);
  EXPECT_EQ(store_.bytes_held(), 2 * kPageBytes);
  EXPECT_EQ(store_.pages_of(kTask), 5U);
  EXPECT_EQ(store_.pages_of(kOther), 0U);
}

TEST_F(PageStoreTest, RangesCrossChunks) {
  auto start = PageStore::kChunkBytes * 5 - 2 * kPageBytes;
  ASSERT_TRUE(put(kTask, {start, 5}, 9));
  for (uint64_t i = 0; i < 5; ++i) EXPECT_EQ(value_at(kTask, start + i * kPageBytes), 9) << i;
  EXPECT_THAT(store_.missing(kTask, {{PageRange{start - kPageBytes, 7}}}),
              ElementsAre(PageRange{start - kPageBytes, 1}, PageRange{start + 5 * kPageBytes, 1}));
  EXPECT_EQ(store_.run(kTask, start, 5).pages, 2U);
}

TEST_F(PageStoreTest, TheLatestContentCounts) {
  ASSERT_TRUE(put(kTask, {kBase, 4}, 1));
  ASSERT_TRUE(put(kTask, {kBase + 0x1000, 1}, 2));
  EXPECT_EQ(value_at(kTask, kBase), 1);
  EXPECT_EQ(value_at(kTask, kBase + 0x1000), 2);
  EXPECT_EQ(store_.bytes_held(), 4 * kPageBytes);
  ASSERT_TRUE(put_zero(kTask, {kBase, 4}));
  EXPECT_EQ(value_at(kTask, kBase + 0x1000), 0);
  EXPECT_EQ(store_.bytes_held(), 0U);
  EXPECT_EQ(memory_taken(), 0U);
  ASSERT_TRUE(put(kTask, {kBase, 1}, 3));
  EXPECT_EQ(value_at(kTask, kBase), 3);
  EXPECT_EQ(store_.bytes_held(), kPageBytes);
}

TEST_F(PageStoreTest, TheLimitHolds) {
  ASSERT_TRUE(put(kTask, {kBase, 250}, 1));
  auto full = put(kTask, {kBase + (1U << 20), 7}, 1);
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code(), Errc::kNoSpace);
  EXPECT_EQ(store_.bytes_held(), 250 * kPageBytes);
  // Replacing takes no more memory, zeros take none, and what was dropped can be used again.
  EXPECT_TRUE(put(kTask, {kBase, 250}, 2));
  EXPECT_TRUE(put_zero(kTask, {kBase + (1U << 20), 1000}));
  store_.drop(kTask, {kBase, 10});
  EXPECT_TRUE(put(kTask, {kBase + (1U << 20), 16}, 1));
  EXPECT_FALSE(put(kTask, {kBase, 1}, 1));
}

TEST_F(PageStoreTest, DroppedPagesAreMissingAgain) {
  ASSERT_TRUE(put(kTask, {kBase, 10}, 1));
  ASSERT_TRUE(put(kOther, {0, 3}, 2));
  store_.drop(kTask, {kBase + 0x3000, 2});
  EXPECT_THAT(store_.missing(kTask, {{PageRange{kBase, 10}}}), ElementsAre(PageRange{kBase + 0x3000, 2}));
  auto out = pages_of(10, 0);
  EXPECT_FALSE(store_.copy_out(kTask, {kBase, 10}, out));
  store_.drop(kTask);
  EXPECT_EQ(store_.bytes_held(), 3 * kPageBytes);
  EXPECT_EQ(memory_taken(), 3 * kPageBytes);
  EXPECT_EQ(value_at(kOther, 0), 2);
}

TEST_F(PageStoreTest, AnAddressSpaceIsDroppedAtOnce) {
  ASSERT_TRUE(put(kTask, {kBase, 10}, 1));
  ASSERT_TRUE(put(kTask, {kBase + (1ULL << 40), 3}, 1));
  ASSERT_TRUE(put(kOther, {kBase, 3}, 2));
  store_.drop(kTask, {0, (kBase + 0x4000) / kPageBytes});
  EXPECT_THAT(store_.missing(kTask, {{PageRange{kBase, 10}}}), ElementsAre(PageRange{kBase, 4}));
  store_.drop(kTask, {0, 1ULL << 50});
  EXPECT_EQ(store_.bytes_held(), 3 * kPageBytes);
  EXPECT_EQ(value_at(kOther, kBase), 2);
}

TEST_F(PageStoreTest, OnlyTheGivenRangesAreKept) {
  auto far = kBase + 3 * PageStore::kChunkBytes;
  ASSERT_TRUE(put(kTask, {kBase, 10}, 1));
  ASSERT_TRUE(put(kTask, {far, 10}, 1));
  std::vector<PageRange> keep{{kBase + 0x1000, 2}, {kBase + 0x5000, 1}, {kBase + 0x100000, 5}};
  store_.keep_only(kTask, keep);
  EXPECT_EQ(store_.bytes_held(), 3 * kPageBytes);
  for (uint64_t page : {1U, 2U, 5U}) EXPECT_EQ(value_at(kTask, kBase + page * kPageBytes), 1) << page;
  EXPECT_EQ(store_.state(kTask, far), PageState::kAbsent);
  // A range that covers a whole chunk and more.
  store_.keep_only(kTask, {{PageRange{kBase - kPageBytes, 100'000}}});
  EXPECT_EQ(store_.bytes_held(), 3 * kPageBytes);
}

TEST_F(PageStoreTest, FilledPagesAreGoneButNotMissing) {
  ASSERT_TRUE(put(kTask, {kBase, 8}, 1));
  ASSERT_TRUE(put_zero(kTask, {kBase + 0x8000, 8}));
  store_.mark_filled(kTask, {kBase + 0x4000, 20});
  EXPECT_EQ(store_.bytes_held(), 4 * kPageBytes);
  EXPECT_EQ(memory_taken(), 4 * kPageBytes);
  EXPECT_EQ(store_.state(kTask, kBase + 0x4000), PageState::kFilled);
  EXPECT_EQ(store_.state(kTask, kBase + 0x10000), PageState::kAbsent);
  EXPECT_THAT(store_.missing(kTask, {{PageRange{kBase, 16}}}), IsEmpty());
  EXPECT_EQ(value_at(kTask, kBase + 0x4000), -1);
  // It cannot come back.
  ASSERT_TRUE(put(kTask, {kBase, 8}, 1));
  EXPECT_EQ(store_.bytes_held(), 4 * kPageBytes);
  EXPECT_EQ(memory_taken(), 4 * kPageBytes);
}

TEST_F(PageStoreTest, AnotherProcessSeesTheSame) {
  ASSERT_TRUE(put(kTask, {kBase, 2}, 5));
  auto other = PageStore::attach(Fd(::dup(store_.header_fd())), Fd(::dup(store_.data_fd())));
  ASSERT_TRUE(other);
  ASSERT_TRUE(other->map_content());
  EXPECT_EQ(other->state(kTask, kBase), PageState::kContent);
  // Chunks that are made later, too.
  ASSERT_TRUE(put(kTask, {kBase + 9 * PageStore::kChunkBytes, 3}, 6));
  auto run = other->run(kTask, kBase + 9 * PageStore::kChunkBytes, 10);
  ASSERT_EQ(run.pages, 3U);
  EXPECT_EQ(run.content[3 * kPageBytes - 1], std::byte{6});
  other->mark_filled(kTask, {kBase, 1});
  EXPECT_EQ(store_.state(kTask, kBase), PageState::kFilled);
  EXPECT_EQ(store_.bytes_held(), other->bytes_held());
  EXPECT_FALSE(store_.sealed());
  other->seal();
  EXPECT_TRUE(store_.sealed());
}

TEST_F(PageStoreTest, OtherFilesAreNoStore) {
  Fd other(::memfd_create("other", MFD_CLOEXEC));
  auto r = PageStore::attach(Fd(::dup(other.get())), Fd(::dup(store_.data_fd())));
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kCorrupt);
  EXPECT_FALSE(PageStore::attach(Fd(::dup(store_.data_fd())), Fd(::dup(store_.header_fd()))));
}

TEST_F(PageStoreTest, NonsenseIsRefused) {
  EXPECT_EQ(put({}, {kBase, 1}, 1).error().code(), Errc::kPeerProtocol);
  EXPECT_EQ(put(kTask, {kBase + 1, 1}, 1).error().code(), Errc::kPeerProtocol);
  EXPECT_EQ(put_zero(kTask, {kBase, uint64_t{1} << 60}).error().code(), Errc::kPeerProtocol);
  EXPECT_EQ(put_zero(kTask, {~uint64_t{0xfff}, 1}).error().code(), Errc::kPeerProtocol);
  auto data = pages_of(2, 1);
  PageBatch batch{.space = kTask, .segments = {{.range = {kBase, 3}, .zero = false}}, .content = data};
  EXPECT_EQ(store_.put(batch).error().code(), Errc::kPeerProtocol);
  EXPECT_EQ(store_.bytes_held(), 0U);
}

TEST_F(PageStoreTest, ThreadsPutDifferentPages) {
  auto store = PageStore::create(1U << 30);
  ASSERT_TRUE(store);
  std::atomic<int> failures = 0;
  {
    std::vector<Thread> threads;
    for (uint64_t t = 0; t < 4; ++t) {
      // Each thread's pages lie between those of the others, in the same words of the table.
      threads.emplace_back("putter", [&, t] {
        auto data = pages_of(1, static_cast<int>(t) + 1);
        for (uint64_t page = t; page < 40'000; page += 4) {
          PageBatch b{
              .space = kTask, .segments = {{.range = {kBase + page * kPageBytes, 1}, .zero = false}}, .content = data};
          if (!store->put(b)) ++failures;
        }
      });
    }
  }
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(store->bytes_held(), 40'000 * kPageBytes);
  EXPECT_THAT(store->missing(kTask, {{PageRange{kBase, 40'000}}}), IsEmpty());
  std::vector<std::byte> page(kPageBytes);
  for (uint64_t i = 0; i < 40'000; i += 97) {
    ASSERT_TRUE(store->copy_out(kTask, {kBase + i * kPageBytes, 1}, page));
    EXPECT_EQ(page[17], static_cast<std::byte>(i % 4 + 1)) << i;
  }
}

TEST(WaitHistogram, QuantilesAreNotTooSmallAndNotMuchTooBig) {
  WaitHistogram h{};
  EXPECT_EQ(h.quantile(0.5).count(), 0);
  for (int us = 1; us <= 1000; ++us) h.add(std::chrono::microseconds(us));
  EXPECT_EQ(h.count(), 1000U);
  for (double share : {0.1, 0.5, 0.9, 0.99}) {
    auto got = static_cast<double>(h.quantile(share).count());
    EXPECT_GE(got, share * 1000);
    EXPECT_LE(got, share * 1000 * 1.26 + 1);
  }
  h.add(std::chrono::hours(24 * 400));
  EXPECT_GT(h.quantile(1).count(), 1'000'000'000);
}

}  // namespace
}  // namespace transship::memory
