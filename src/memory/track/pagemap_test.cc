#include "memory/track/pagemap.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

namespace transship::memory {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kPages = 64;
constexpr size_t kBytes = kPages * kPageBytes;

class PagemapTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (auto works = probe_pagemap_scan(); !works) GTEST_SKIP() << works.error().message();
    void* at = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(at, MAP_FAILED);
    (void)::madvise(at, kBytes, MADV_NOHUGEPAGE);
    memory_ = static_cast<volatile char*>(at);
    start_ = reinterpret_cast<uint64_t>(at);
    for (uint64_t page : {1, 2, 3, 40}) memory_[page * kPageBytes] = 1;
    static_cast<void>(memory_[50 * kPageBytes]);  // read only: a zero page
  }
  void TearDown() override {
    if (start_ != 0) (void)::munmap(const_cast<char*>(memory_), kBytes);
  }
  PageRange range(uint64_t first, uint64_t pages) const { return {start_ + first * kPageBytes, pages}; }
  volatile char* memory_ = nullptr;
  uint64_t start_ = 0;
  std::vector<PageRange> found_;
};

TEST_F(PagemapTest, PopulatedIsWhatWasWritten) {
  auto pagemap = Pagemap::open(::getpid());
  ASSERT_TRUE(pagemap);
  for (auto backing : {Backing::kAnonymous, Backing::kFile}) {
    found_.clear();
    auto walk = pagemap->populated(start_, start_ + kBytes, backing, kPages, found_);
    ASSERT_TRUE(walk) << walk.error().message();
    EXPECT_EQ(walk->walked, start_ + kBytes);
    EXPECT_THAT(found_, ElementsAre(range(1, 3), range(40, 1)));
  }
}

TEST_F(PagemapTest, PagesOfAFileAreNotReported) {
  Fd file(::memfd_create("pages", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), kBytes), 0);
  void* at = ::mmap(const_cast<char*>(memory_), kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file.get(), 0);
  ASSERT_NE(at, MAP_FAILED);
  static_cast<void>(memory_[4 * kPageBytes]);
  memory_[5 * kPageBytes] = 1;  // a copy of its own
  auto pagemap = Pagemap::open(::getpid());
  ASSERT_TRUE(pagemap);
  ASSERT_TRUE(pagemap->populated(start_, start_ + kBytes, Backing::kFile, kPages, found_));
  EXPECT_THAT(found_, ElementsAre(range(5, 1)));
}

TEST_F(PagemapTest, EntryByEntryIsTheSameWithZeroPages) {
  auto pagemap = Pagemap::open(::getpid());
  ASSERT_TRUE(pagemap);
  auto walk = pagemap->populated_by_entries(start_, start_ + kBytes, kPages, found_);
  ASSERT_TRUE(walk) << walk.error().message();
  EXPECT_EQ(walk->walked, start_ + kBytes);
  EXPECT_THAT(found_, ElementsAre(range(1, 3), range(40, 1), range(50, 1)));
}

// In pieces, as a caller with a limit goes on from where the last one ended.
TEST_F(PagemapTest, PiecesMakeTheWhole) {
  auto pagemap = Pagemap::open(::getpid());
  ASSERT_TRUE(pagemap);
  int pieces = 0;
  for (uint64_t at = start_; at < start_ + kBytes; ++pieces) {
    auto walk = pagemap->populated(at, start_ + kBytes, Backing::kAnonymous, 2, found_);
    ASSERT_TRUE(walk) << walk.error().message();
    ASSERT_GT(walk->walked, at);
    at = walk->walked;
  }
  EXPECT_GT(pieces, 1);
  EXPECT_THAT(found_, ElementsAre(range(1, 3), range(40, 1)));
}

TEST_F(PagemapTest, MemoryWithoutProtectionIsToldAndNotTaken) {
  auto pagemap = Pagemap::open(::getpid());
  ASSERT_TRUE(pagemap);
  auto written = pagemap->written(start_, start_ + kBytes, Backing::kAnonymous, kPages, found_);
  ASSERT_TRUE(written) << written.error().message();
  EXPECT_TRUE(written->unregistered);
  EXPECT_THAT(found_, IsEmpty());
  auto taken = pagemap->take_written(start_, start_ + kBytes, Backing::kAnonymous, kPages, found_);
  ASSERT_TRUE(taken) << taken.error().message();
  EXPECT_TRUE(taken->unregistered);
  EXPECT_THAT(found_, IsEmpty());
}

TEST_F(PagemapTest, SoftDirtyWhereTheKernelHasIt) {
  if (auto works = probe_soft_dirty(); !works) GTEST_SKIP() << works.error().message();
  ASSERT_TRUE(clear_soft_dirty(::getpid()));
  memory_[2 * kPageBytes] = 2;
  memory_[60 * kPageBytes] = 2;
  auto pagemap = Pagemap::open(::getpid());
  ASSERT_TRUE(pagemap);
  ASSERT_TRUE(pagemap->soft_dirty(start_, start_ + kBytes, kPages, found_));
  EXPECT_THAT(found_, ElementsAre(range(2, 1), range(60, 1)));
}

}  // namespace
}  // namespace transship::memory
