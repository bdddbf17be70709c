#include "memory/page_sender.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <map>

#include "base/mutex.h"
#include "memory/page_batch.h"
#include "memory/test_pages.h"

namespace transship::memory {
namespace {

using testing::HasSubstr;
using Bytes = std::vector<std::byte>;

const SpaceId kTask{SpaceKind::kTask, 17};
const SpaceId kOther{SpaceKind::kShared, 17};

Deadline soon() { return Deadline::in(milliseconds(20'000)); }

// Pages by address. What is not there cannot be read.
class FakeMemory {
 public:
  void put(uint64_t page, TestContent content) { pages_[page * kPageBytes] = test_pages(content, 1, page + 1); }
  void put_zero(uint64_t page) { pages_[page * kPageBytes] = Bytes(kPageBytes); }
  const std::map<uint64_t, Bytes>& pages() const { return pages_; }
  uint64_t asked() const { return asked_; }

  ReadPages reader() {
    return [this](std::span<const PageRange> ranges, std::span<std::byte> buffer) -> Result<size_t> {
      size_t read = 0;
      for (const auto& range : ranges) {
        asked_ += range.pages;
        for (uint64_t at = range.address; at < range.end(); at += kPageBytes) {
          auto page = pages_.find(at);
          if (page == pages_.end()) return read;
          std::ranges::copy(page->second, buffer.subspan(read++ * kPageBytes, kPageBytes).begin());
        }
      }
      EXPECT_EQ(buffer.size(), read * kPageBytes);
      return read;
    };
  }

 private:
  std::map<uint64_t, Bytes> pages_;
  std::atomic<uint64_t> asked_ = 0;
};

// The other end: what arrived, page by page.
class Receiver {
 public:
  SendFrame sink() {
    return [this](Bytes& frame) -> Result<> {
      Bytes scratch;
      TS_TRY_ASSIGN(PageBatch batch, decode_batch(frame, scratch));
      MutexLock lock(mu_);
      ++batches;
      bytes += frame.size();
      auto content = batch.content;
      for (const auto& [range, zero] : batch.segments) {
        for (uint64_t at = range.address; at < range.end(); at += kPageBytes) {
          Bytes page(kPageBytes);
          if (!zero) {
            std::ranges::copy(content.first(kPageBytes), page.begin());
            content = content.subspan(kPageBytes);
          }
          EXPECT_TRUE(spaces[batch.space].emplace(at, std::move(page)).second) << "twice: " << at;
        }
      }
      return {};
    };
  }
  std::map<SpaceId, std::map<uint64_t, Bytes>> spaces;
  uint64_t batches = 0;
  uint64_t bytes = 0;

 private:
  Mutex mu_;
};

class PageSenderTest : public testing::Test {
 protected:
  PageSenderTest() : cancel_(*Cancel::create()) {}
  Cancel cancel_;
  FakeMemory memory_;
  Receiver receiver_;
};

TEST(ZeroPage, EachByteCounts) {
  Bytes page(kPageBytes);
  EXPECT_TRUE(is_zero_page(page.data()));
  for (size_t at = 0; at < kPageBytes; ++at) {
    page[at] = std::byte{0x80};
    EXPECT_FALSE(is_zero_page(page.data())) << at;
    page[at] = std::byte{0};
  }
}

struct Setting {
  CompressionPolicy policy;
  unsigned workers;
};
class EveryPage : public PageSenderTest, public testing::WithParamInterface<Setting> {};

TEST_P(EveryPage, ArrivesOnce) {
  TestRandom random(8);
  FakeMemory other;
  uint64_t zero = 0;
  for (uint64_t i = 0; i < 3000; ++i) {
    auto kind = random.below(4);
    if (kind == 0)
      memory_.put_zero(i), ++zero;
    else
      memory_.put(i, kind == 1 ? TestContent::kRandom : TestContent::kHeap);
    if (i < 300) other.put(i, TestContent::kHeap);
  }
  // Ranges of any length, a part of them in the wrong order.
  std::vector<PageRange> ranges;
  for (uint64_t at = 0, pages = 0; at < 3000; at += pages) {
    pages = std::min<uint64_t>(1 + random.below(random.below(2) == 0 ? 3 : 300), 3000 - at);
    ranges.push_back({at * kPageBytes, pages});
  }
  std::swap(ranges[3], ranges[20]);
  std::swap(ranges[5], ranges[6]);
  PageSender sender(receiver_.sink(), {.compression = GetParam().policy, .workers = GetParam().workers}, cancel_);
  std::span<const PageRange> all = ranges;
  ASSERT_TRUE(sender.add(kTask, all.first(10), memory_.reader()));
  const PageRange others{0, 300};
  ASSERT_TRUE(sender.add(kOther, {&others, 1}, other.reader()));
  ASSERT_TRUE(sender.add(kTask, all.subspan(10), memory_.reader()));
  auto stats = sender.finish_round(soon());
  ASSERT_TRUE(stats) << stats.error().message();
  EXPECT_EQ(receiver_.spaces[kTask], memory_.pages());
  EXPECT_EQ(receiver_.spaces[kOther], other.pages());
  EXPECT_EQ(stats->pages, 3300U);
  EXPECT_EQ(stats->zero_pages, zero);
  EXPECT_EQ(stats->bytes_in, (3300 - zero) * kPageBytes);
  EXPECT_EQ(stats->bytes_out, receiver_.bytes);
  EXPECT_EQ(stats->batches, receiver_.batches);
  EXPECT_EQ(stats->skipped_pages, 0U);
  EXPECT_GT(stats->elapsed.count(), 0);
  EXPECT_LT(stats->batches, 40U);  // 24 are needed; changes of the space and of the order cost one each
  bool compressed = GetParam().policy == CompressionPolicy::kLz4 || GetParam().policy == CompressionPolicy::kZstd;
  // With auto it depends on how fast this machine decodes and compresses.
  if (GetParam().policy != CompressionPolicy::kAuto) {
    EXPECT_EQ(stats->bytes_out < stats->bytes_in, compressed);
  }
}

INSTANTIATE_TEST_SUITE_P(All, EveryPage,
                         testing::Values(Setting{CompressionPolicy::kNone, 1}, Setting{CompressionPolicy::kLz4, 4},
                                         Setting{CompressionPolicy::kZstd, 3}, Setting{CompressionPolicy::kAuto, 2}));

TEST_F(PageSenderTest, ASlowLinkGetsCompressedPages) {
  for (uint64_t i = 0; i < 1024; ++i) memory_.put(i, TestContent::kHeap);
  PageSender sender(receiver_.sink(), {.workers = 2, .link_bytes_per_second = 10e6}, cancel_);
  const PageRange range{0, 1024};
  ASSERT_TRUE(sender.add(kTask, {&range, 1}, memory_.reader()));
  auto stats = sender.finish_round(soon());
  ASSERT_TRUE(stats);
  EXPECT_EQ(stats->compression, Compression::kZstd);
  EXPECT_LT(stats->bytes_out, stats->bytes_in / 2);
  EXPECT_DOUBLE_EQ(sender.situation().link, 10e6);
}

TEST_F(PageSenderTest, PagesThatWentAwayAreTold) {
  for (uint64_t i = 0; i < 500; ++i)
    if (i != 0 && (i < 100 || i >= 103) && i != 499) memory_.put(i, TestContent::kRandom);
  PageSender sender(receiver_.sink(), {.workers = 2}, cancel_);
  const PageRange range{0, 500};
  ASSERT_TRUE(sender.add(kTask, {&range, 1}, memory_.reader()));
  auto stats = sender.finish_round(soon());
  ASSERT_TRUE(stats);
  EXPECT_EQ(stats->pages, 495U);
  EXPECT_EQ(stats->skipped_pages, 5U);
  EXPECT_THAT(stats->skipped, testing::ElementsAre(SkippedPages{kTask, {0, 1}}, SkippedPages{kTask, {0x64000, 3}},
                                                   SkippedPages{kTask, {0x1f3000, 1}}));
  EXPECT_EQ(receiver_.spaces[kTask], memory_.pages());
}

TEST_F(PageSenderTest, ZeroPagesCostAFewBytes) {
  PageSender sender(receiver_.sink(), {.workers = 1}, cancel_);
  auto zeros = [](std::span<const PageRange>, std::span<std::byte> buffer) -> Result<size_t> {
    std::ranges::fill(buffer, std::byte{0});
    return buffer.size() / kPageBytes;
  };
  const PageRange range{0x7f0000000000, 4096};
  ASSERT_TRUE(sender.add(kTask, {&range, 1}, zeros));
  auto stats = sender.finish_round(soon());
  ASSERT_TRUE(stats);
  EXPECT_EQ(stats->zero_pages, 4096U);
  EXPECT_EQ(stats->bytes_in, 0U);
  EXPECT_EQ(stats->bytes_out, kBatchHeaderBytes + kBatchSegmentBytes);
  // Scattered, they still fit the segments of a batch.
  std::vector<PageRange> scattered;
  for (uint64_t i = 0; i < kBatchSegments + 1; ++i) scattered.push_back({2 * i * kPageBytes, 1});
  ASSERT_TRUE(sender.add(kOther, scattered, zeros));
  stats = sender.finish_round(soon());
  ASSERT_TRUE(stats);
  EXPECT_EQ(stats->batches, 2U);
  EXPECT_EQ(receiver_.spaces[kOther].size(), kBatchSegments + 1);
}

TEST_F(PageSenderTest, RoundsAreCountedByThemselves) {
  for (uint64_t i = 0; i < 10; ++i) memory_.put(i, TestContent::kRandom);
  PageSender sender(receiver_.sink(), {.workers = 2}, cancel_);
  for (uint64_t round = 1; round <= 3; ++round) {
    const PageRange range{0, round};
    ASSERT_TRUE(sender.add(kTask, {&range, 1}, memory_.reader()));
    EXPECT_EQ(sender.progress().pages, round);
    receiver_.spaces.clear();
    auto stats = sender.finish_round(soon());
    ASSERT_TRUE(stats);
    EXPECT_EQ(stats->pages, round);
    EXPECT_EQ(stats->batches, 1U);
    EXPECT_EQ(receiver_.spaces[kTask].size(), round);
  }
  auto empty = sender.finish_round(soon());
  ASSERT_TRUE(empty);
  EXPECT_EQ(empty->batches, 0U);
}

TEST_F(PageSenderTest, RefusesWhatIsNoRange) {
  PageSender sender(receiver_.sink(), {.workers = 1}, cancel_);
  for (PageRange range : {PageRange{0, 0}, PageRange{1, 1}, PageRange{kMaxPageEnd, 1}, PageRange{0, 1ULL << 52}}) {
    auto r = sender.add(kTask, {&range, 1}, memory_.reader());
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code(), Errc::kInvalidArgument);
  }
}

TEST_F(PageSenderTest, AReadThatFailsEndsOnlyItself) {
  memory_.put(1, TestContent::kRandom);
  PageSender sender(receiver_.sink(), {.workers = 1}, cancel_);
  const PageRange range{kPageBytes, 1};
  auto broken = [](std::span<const PageRange>, std::span<std::byte>) -> Result<size_t> {
    return fail(Errc::kNotFound, "process 17 is gone");
  };
  auto r = sender.add(kOther, {&range, 1}, broken);
  ASSERT_FALSE(r);
  EXPECT_THAT(r.error().message(), HasSubstr("process 17 is gone"));
  ASSERT_TRUE(sender.add(kTask, {&range, 1}, memory_.reader()));
  auto stats = sender.finish_round(soon());
  ASSERT_TRUE(stats);
  EXPECT_EQ(stats->batches, 1U);
  EXPECT_EQ(receiver_.spaces[kTask], memory_.pages());
}

TEST_F(PageSenderTest, AnErrorOfTheLanesComesOut) {
  for (uint64_t i = 0; i < 2000; ++i) memory_.put(i, TestContent::kRandom);
  PageSender sender([](Bytes&) -> Result<> { return fail(Errc::kUnavailable, "lane 0: cut"); }, {.workers = 2},
                    cancel_);
  const PageRange range{0, 2000};
  auto added = sender.add(kTask, {&range, 1}, memory_.reader());
  ASSERT_FALSE(added);  // 16 batches and room for 5
  EXPECT_THAT(added.error().message(), HasSubstr("lane 0: cut"));
  for (int i = 0; i < 2; ++i) {
    auto stats = sender.finish_round(soon());
    ASSERT_FALSE(stats);
    EXPECT_THAT(stats.error().message(), HasSubstr("lane 0: cut"));
  }
}

// Lanes that take nothing until the test lets them.
class Gate {
 public:
  ~Gate() { open(); }
  void open() {
    MutexLock lock(mu_);
    open_ = true;
    opened_.notify_all();
  }
  SendFrame sink() {
    return [this](Bytes&) -> Result<> {
      MutexLock lock(mu_);
      while (!open_) opened_.wait(mu_);
      return {};
    };
  }

 private:
  Mutex mu_;
  CondVar opened_;
  bool open_ = false;
};

TEST_F(PageSenderTest, WaitsForTheLanesWithBoundedMemory) {
  for (uint64_t i = 0; i < 2000; ++i) memory_.put(i, TestContent::kRandom);
  Gate gate;
  PageSender sender(gate.sink(), {.workers = 1, .stall = milliseconds(30)}, cancel_);
  const PageRange range{0, 2000};
  auto added = sender.add(kTask, {&range, 1}, memory_.reader());
  ASSERT_FALSE(added);
  EXPECT_EQ(added.error().code(), Errc::kTimeout);
  EXPECT_THAT(added.error().message(), HasSubstr("3 batches are still on their way"));
  EXPECT_EQ(memory_.asked(), 3 * kBatchPages);
  auto stats = sender.finish_round(Deadline::in(milliseconds(10)));
  ASSERT_FALSE(stats);
  EXPECT_EQ(stats.error().code(), Errc::kTimeout);
  gate.open();
  stats = sender.finish_round(soon());
  ASSERT_TRUE(stats);
  EXPECT_EQ(stats->batches, 3U);
  EXPECT_GT(stats->waited, milliseconds(20));
}

TEST_F(PageSenderTest, CancelEndsAWait) {
  memory_.put(0, TestContent::kRandom);
  Gate gate;
  PageSender sender(gate.sink(), {.workers = 1}, cancel_);
  const PageRange range{0, 1};
  ASSERT_TRUE(sender.add(kTask, {&range, 1}, memory_.reader()));
  cancel_.cancel("operator");
  auto stats = sender.finish_round(soon());
  ASSERT_FALSE(stats);
  EXPECT_EQ(stats.error().code(), Errc::kCancelled);
  gate.open();
}

TEST_F(PageSenderTest, WhatWasNotSentIsAbandoned) {
  for (uint64_t i = 0; i < 200; ++i) memory_.put(i, TestContent::kRandom);
  PageSender sender(receiver_.sink(), {.workers = 1}, cancel_);
  const PageRange range{0, 200};
  ASSERT_TRUE(sender.add(kTask, {&range, 1}, memory_.reader()));
  // Ends without finish_round(): joins its threads, and the sanitizers find nothing left.
}

}  // namespace
}  // namespace transship::memory
