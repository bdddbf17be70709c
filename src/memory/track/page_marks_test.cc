#include "memory/track/page_marks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "memory/track/test_kid.h"

namespace transship::memory {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Of our own process: what the reader reads is not what this is about.
class PageMarksTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kPages = 8;
  PageMarksTest() {
    void* at = ::mmap(nullptr, kPages * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memory_ = static_cast<char*>(at);
  }
  ~PageMarksTest() override { (void)::munmap(memory_, kPages * kPageBytes); }
  PageRange range(uint64_t first, uint64_t pages) const {
    return {reinterpret_cast<uint64_t>(memory_) + first * kPageBytes, pages};
  }
  void remember(PageRange r) {
    auto done = marks_.remember(reader_, {{}, ::getpid(), std::array{r}}, cancel_);
    EXPECT_TRUE(done) << done.error().message();
  }
  std::vector<PageRange> changed(PageRange r) {
    auto found = marks_.changed(reader_, {{}, ::getpid(), std::array{r}}, cancel_);
    EXPECT_TRUE(found) << found.error().message();
    return found ? *found : std::vector<PageRange>{};
  }
  char* memory_;
  PageReader reader_;
  PageMarks marks_;
  Cancel cancel_ = *Cancel::create();
};

TEST_F(PageMarksTest, OnlyWhatHoldsSomethingElse) {
  remember(range(0, kPages));
  EXPECT_EQ(marks_.size(), kPages);
  EXPECT_THAT(changed(range(0, kPages)), IsEmpty());
  memory_[2 * kPageBytes + 4095] = 1;
  memory_[3 * kPageBytes] = 1;
  memory_[7 * kPageBytes] = 1;
  EXPECT_THAT(changed(range(0, kPages)), ElementsAre(range(2, 2), range(7, 1)));
  remember(range(3, 1));
  EXPECT_THAT(changed(range(0, kPages)), ElementsAre(range(2, 1), range(7, 1)));
  memory_[2 * kPageBytes + 4095] = 0;
  EXPECT_THAT(changed(range(0, 4)), IsEmpty());
}

TEST_F(PageMarksTest, WhatIsNotKnownCountsAsChanged) {
  remember(range(0, 2));
  EXPECT_THAT(changed(range(0, 4)), ElementsAre(range(2, 2)));
  marks_.clear();
  EXPECT_THAT(changed(range(0, 4)), ElementsAre(range(0, 4)));
}

TEST_F(PageMarksTest, PagesThatCannotBeReadAreForgotten) {
  remember(range(0, kPages));
  (void)::munmap(memory_ + 4 * kPageBytes, kPageBytes);
  remember(range(3, 2));
  EXPECT_EQ(marks_.size(), kPages - 1);
  EXPECT_THAT(changed(range(3, 2)), ElementsAre(range(4, 1)));
}

}  // namespace
}  // namespace transship::memory
