#include "forwarder/delay_queue.h"

#include <gtest/gtest.h>

namespace transship::lab {
namespace {

using std::chrono::milliseconds;

Frame frame(size_t size, std::byte mark = std::byte{0}) { return {{}, std::vector<std::byte>(size, mark)}; }
Clock::time_point at(int ms) { return Clock::time_point(milliseconds(1'000'000 + ms)); }

TEST(DelayQueue, HoldsEachPacketForTheDelay) {
  DelayQueue queue(milliseconds(20), 1 << 20);
  ASSERT_TRUE(queue.push(frame(100), at(0)));
  EXPECT_EQ(queue.due(at(19)), nullptr);
  EXPECT_NE(queue.due(at(20)), nullptr);
  EXPECT_EQ(queue.next_due(), at(20));
}

TEST(DelayQueue, KeepsOrderAndContent) {
  DelayQueue queue(milliseconds(5), 1 << 20);
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(queue.push(frame(64, std::byte(i)), at(i)));
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(queue.due(at(i + 4)), nullptr) << i;
    const Frame* due = queue.due(at(i + 5));
    ASSERT_NE(due, nullptr) << i;
    EXPECT_EQ(due->data.front(), std::byte(i));
    queue.pop();
  }
  EXPECT_EQ(queue.packets(), 0U);
  EXPECT_EQ(queue.bytes(), 0U);
  EXPECT_EQ(queue.next_due(), std::nullopt);
}

TEST(DelayQueue, NoDelayMeansDueAtOnce) {
  DelayQueue queue({}, 1000);
  ASSERT_TRUE(queue.push(frame(10), at(0)));
  EXPECT_NE(queue.due(at(0)), nullptr);
}

TEST(DelayQueue, DropsWhatDoesNotFitAndCountsIt) {
  DelayQueue queue(milliseconds(1), 1000);
  EXPECT_TRUE(queue.push(frame(600), at(0)));
  EXPECT_TRUE(queue.push(frame(400), at(0)));
  EXPECT_FALSE(queue.push(frame(1), at(0)));
  EXPECT_EQ(queue.bytes(), 1000U);
  EXPECT_EQ(queue.dropped(), 1U);
  queue.pop();
  EXPECT_TRUE(queue.push(frame(600), at(1)));
  EXPECT_FALSE(queue.push(frame(600), at(1)));
  EXPECT_EQ(queue.dropped(), 2U);
}

TEST(DelayQueue, APacketLargerThanTheBoundStillPassesAlone) {
  // Else a link with a tiny queue would never carry a large packet.
  DelayQueue queue({}, 1000);
  EXPECT_TRUE(queue.push(frame(5000), at(0)));
  EXPECT_FALSE(queue.push(frame(1), at(0)));
  queue.pop();
  EXPECT_TRUE(queue.push(frame(1), at(0)));
}

}  // namespace
}  // namespace transship::lab
