#include "migrate/sent_ahead.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace transship::migrate {
namespace {

using memory::kPageBytes;
using memory::PageRange;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

PageRange pages(uint64_t first, uint64_t count) { return {first * kPageBytes, count}; }

TEST(SentAhead, NothingAddedIsAllLeft) {
  SentAhead sent;
  EXPECT_THAT(sent.rest_of(1, pages(0, 128)), ElementsAre(pages(0, 128)));
  sent.add(2, pages(0, 128));  // another process
  EXPECT_THAT(sent.rest_of(1, pages(0, 128)), ElementsAre(pages(0, 128)));
}

TEST(SentAhead, WhatIsLeftIsAroundWhatWasAdded) {
  SentAhead sent;
  sent.add(1, pages(20, 4));
  sent.add(1, pages(8, 4));
  sent.add(1, pages(10, 1));   // again
  sent.add(1, pages(30, 10));  // to the end and beyond
  EXPECT_THAT(sent.rest_of(1, pages(0, 32)), ElementsAre(pages(0, 8), pages(12, 8), pages(24, 6)));
}

TEST(SentAhead, ASpanThatBeginsBefore) {
  SentAhead sent;
  sent.add(1, pages(100, 16));
  EXPECT_THAT(sent.rest_of(1, pages(110, 10)), ElementsAre(pages(116, 4)));
  EXPECT_THAT(sent.rest_of(1, pages(104, 2)), IsEmpty());
  EXPECT_THAT(sent.rest_of(1, pages(116, 2)), ElementsAre(pages(116, 2)));
}

TEST(SentAhead, TheLongerOfTwoThatBeginAlikeCounts) {
  SentAhead sent;
  sent.add(1, pages(5, 16));
  sent.add(1, pages(5, 1));
  EXPECT_THAT(sent.rest_of(1, pages(5, 16)), IsEmpty());
  sent.clear();
  EXPECT_THAT(sent.rest_of(1, pages(5, 16)), ElementsAre(pages(5, 16)));
}

}  // namespace
}  // namespace transship::migrate
