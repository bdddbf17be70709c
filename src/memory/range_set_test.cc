#include "memory/range_set.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace transship::memory {
namespace {

PageRange pages(uint64_t first, uint64_t count) { return {first * kPageBytes, count}; }

TEST(RangeSet, NeighboursAndOverlapsAreOne) {
  RangeSet set;
  set.add(pages(10, 2));
  set.add(pages(14, 2));
  EXPECT_EQ(set.count(), 2u);
  set.add(pages(12, 2));
  EXPECT_EQ(set.count(), 1u);
  EXPECT_EQ(set.pages(), 6u);
  set.add(pages(0, 100));
  EXPECT_EQ(set.count(), 1u);
  EXPECT_EQ(set.pages(), 100u);
}

TEST(RangeSet, WhatIsMissing) {
  RangeSet set;
  set.add(pages(10, 2));
  set.add(pages(20, 2));
  std::vector<PageRange> asked{pages(0, 5), pages(9, 12), pages(21, 1), pages(30, 1)};
  EXPECT_EQ(set.missing(asked), (std::vector{pages(0, 5), pages(9, 1), pages(12, 8), pages(30, 1)}));
  EXPECT_TRUE(set.overlaps(pages(11, 100)));
  EXPECT_FALSE(set.overlaps(pages(12, 8)));
}

TEST(RangeSet, AsASetOfSinglePages) {
  std::mt19937_64 random(1);
  RangeSet set;
  std::set<uint64_t> model;
  for (int i = 0; i < 3000; ++i) {
    auto range = pages(random() % 200, 1 + random() % 20);
    bool add = random() % 2 == 0;
    add ? set.add(range) : set.remove(range);
    for (uint64_t page = range.address / kPageBytes; page < range.end() / kPageBytes; ++page)
      add ? (void)model.insert(page) : (void)model.erase(page);
    ASSERT_EQ(set.pages(), model.size()) << i;
    auto look = pages(random() % 200, 1 + random() % 40);
    uint64_t missing = 0;
    for (const auto& r : set.missing(std::vector{look})) missing += r.pages;
    uint64_t there = 0;
    for (uint64_t page = look.address / kPageBytes; page < look.end() / kPageBytes; ++page) there += model.count(page);
    ASSERT_EQ(missing + there, look.pages) << i;
    ASSERT_EQ(set.overlaps(look), there > 0) << i;
  }
}

}  // namespace
}  // namespace transship::memory
