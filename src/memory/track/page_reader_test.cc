#include "memory/track/page_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "memory/track/test_kid.h"

namespace transship::memory {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::Kid;
using testing::word;

constexpr uint64_t kPages = 700;  // some blocks, the last one not full
constexpr size_t kBytes = kPages * kPageBytes;

std::byte* map_pages() {
  void* at = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return at == MAP_FAILED ? nullptr : static_cast<std::byte*>(at);
}

class PageReaderTest : public ::testing::Test {
 protected:
  // The kid's memory is at the same addresses as ours was when it was made.
  PageReaderTest() : memory_(map_pages()), at_(reinterpret_cast<uint64_t>(memory_)) {}
  ~PageReaderTest() override { (void)::munmap(memory_, kBytes); }
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "not root";
  }
  static void number_pages(std::byte* memory) {
    for (uint64_t i = 0; i < kPages; ++i) *reinterpret_cast<uint64_t*>(memory + i * kPageBytes) = i + 1;
  }
  PageRange range(uint64_t first, uint64_t pages) const { return {at_ + first * kPageBytes, pages}; }
  Result<ReadStats> read(pid_t pid, std::vector<PageRange> ranges) {
    got_.clear();
    auto sink = [&](const PageBlock& block) -> Result<> {
      EXPECT_EQ(block.space, kSpace);
      EXPECT_LE(block.content.size(), kBlockPages * kPageBytes);
      const std::byte* from = block.content.data();
      for (const auto& r : block.ranges)
        for (uint64_t at = r.address; at < r.end(); at += kPageBytes, from += kPageBytes)
          got_[(at - at_) / kPageBytes] = *reinterpret_cast<const uint64_t*>(from);
      EXPECT_EQ(from, block.content.data() + block.content.size());
      return {};
    };
    return reader_.read({kSpace, pid, ranges}, sink, cancel_);
  }
  static constexpr SpaceId kSpace{SpaceKind::kTask, 17};
  std::byte* memory_;
  uint64_t at_;
  PageReader reader_;
  Cancel cancel_ = *Cancel::create();
  std::map<uint64_t, uint64_t> got_;  // page -> the number in it
};

TEST_F(PageReaderTest, AllPagesOfLongAndShortRanges) {
  Kid kid([&](std::byte* shared) {
    number_pages(memory_);
    word(shared, 0) = 1;
    ::pause();
  });
  ASSERT_TRUE(kid.reached(0, 1));
  std::vector<PageRange> ranges{range(0, 300)};
  for (uint64_t i = 300; i < kPages; i += 2) ranges.push_back(range(i, 1));
  auto stats = read(kid.pid(), ranges);
  ASSERT_TRUE(stats) << stats.error().message();
  EXPECT_EQ(stats->pages, 500U);
  EXPECT_THAT(stats->gone, IsEmpty());
  ASSERT_EQ(got_.size(), 500U);
  for (auto [page, number] : got_) EXPECT_EQ(number, page + 1);
}

TEST_F(PageReaderTest, PagesThatAreGoneAreNamedAndTheOthersRead) {
  Kid kid([&](std::byte* shared) {
    number_pages(memory_);
    (void)::munmap(memory_, kPageBytes);
    (void)::munmap(memory_ + 5 * kPageBytes, 3 * kPageBytes);
    (void)::munmap(memory_ + 200 * kPageBytes, kPageBytes);
    word(shared, 0) = 1;
    ::pause();
  });
  ASSERT_TRUE(kid.reached(0, 1));
  auto stats = read(kid.pid(), {range(0, 10), range(198, 5), range(kPages - 1, 1)});
  ASSERT_TRUE(stats) << stats.error().message();
  EXPECT_EQ(stats->pages, 11U);
  EXPECT_THAT(stats->gone, ElementsAre(range(0, 1), range(5, 3), range(200, 1)));
  EXPECT_EQ(got_, (std::map<uint64_t, uint64_t>{{1, 2},
                                                {2, 3},
                                                {3, 4},
                                                {4, 5},
                                                {8, 9},
                                                {9, 10},
                                                {198, 199},
                                                {199, 200},
                                                {201, 202},
                                                {202, 203},
                                                {kPages - 1, kPages}}));
}

TEST_F(PageReaderTest, ProtectedPagesAreReadTooGuardedOnesAreNot) {
  Kid kid([&](std::byte* shared) {
    number_pages(memory_);
    (void)::mprotect(memory_, 2 * kPageBytes, PROT_NONE);
    (void)::mprotect(memory_ + 2 * kPageBytes, kPageBytes, PROT_WRITE);
    word(shared, 0) = 1;
    ::pause();
  });
  ASSERT_TRUE(kid.reached(0, 1));
  auto stats = read(kid.pid(), {range(0, 4)});
  ASSERT_TRUE(stats) << stats.error().message();
  EXPECT_EQ(got_, (std::map<uint64_t, uint64_t>{{0, 1}, {1, 2}, {2, 3}, {3, 4}}));
}

// A call that reads a part leaves errno as it was: of a process that had ended, say.
TEST_F(PageReaderTest, AnErrorOfBeforeIsNotTakenForThisOne) {
  Kid kid([&](std::byte* shared) {
    number_pages(memory_);
    (void)::mprotect(memory_ + kPageBytes, kPageBytes, PROT_WRITE);
    word(shared, 0) = 1;
    ::pause();
  });
  ASSERT_TRUE(kid.reached(0, 1));
  errno = ESRCH;
  auto stats = read(kid.pid(), {range(0, 3)});
  ASSERT_TRUE(stats) << stats.error().message();
  EXPECT_TRUE(stats->gone.empty());
  EXPECT_EQ(got_, (std::map<uint64_t, uint64_t>{{0, 1}, {1, 2}, {2, 3}}));
}

TEST_F(PageReaderTest, ProcessThatHasEnded) {
  pid_t pid = 0;
  {
    pid = Kid([](std::byte*) {}).pid();
  }
  auto stats = read(pid, {range(0, 3)});
  ASSERT_TRUE(stats) << stats.error().message();
  EXPECT_EQ(stats->pages, 0U);
  EXPECT_THAT(stats->gone, ElementsAre(range(0, 3)));
}

TEST_F(PageReaderTest, ErrorOfTheSinkEndsIt) {
  number_pages(memory_);
  std::vector<PageRange> ranges{range(0, kPages)};
  int calls = 0;
  auto sink = [&](const PageBlock&) -> Result<> { return ++calls == 2 ? fail(Errc::kNoSpace, "full") : Result<>{}; };
  auto stats = reader_.read({kSpace, ::getpid(), ranges}, sink, cancel_);
  ASSERT_FALSE(stats);
  EXPECT_EQ(stats.error().code(), Errc::kNoSpace);
  EXPECT_EQ(calls, 2);
  cancel_.cancel("enough");
  EXPECT_EQ(read(::getpid(), {range(0, 1)}).error().code(), Errc::kCancelled);
}

}  // namespace
}  // namespace transship::memory
