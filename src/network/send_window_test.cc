#include "network/send_window.h"

#include <gtest/gtest.h>

namespace transship::network {
namespace {

constexpr size_t kMost = SendWindow::kMost;

class SendWindowTest : public testing::Test {
 protected:
  void send(size_t count) {
    for (size_t i = 0; i < count; ++i) window_.sent();
  }
  Clock::time_point at(int ms) const { return begun_ + milliseconds(ms); }
  const Clock::time_point begun_ = Clock::now();
  SendWindow window_;
};

TEST_F(SendWindowTest, WhatIsTakenMakesRoom) {
  window_.begin(5000, at(0));
  EXPECT_EQ(window_.room(5000, at(0)), kMost);
  send(kMost);
  EXPECT_EQ(window_.room(5000, at(1)), 0U);
  EXPECT_EQ(window_.room(5010, at(2)), 10U);
  send(10);
  EXPECT_EQ(window_.room(5010, at(3)), 0U);
  EXPECT_EQ(window_.room(5000 + kMost + 10, at(4)), kMost);
}

TEST_F(SendWindowTest, OtherTrafficMakesNoMoreThanAllOfIt) {
  window_.begin(0, at(0));
  send(10);
  EXPECT_EQ(window_.room(1'000'000, at(1)), kMost);
}

TEST_F(SendWindowTest, CountersThatStandStillDoNotStop) {
  window_.begin(7, at(0));
  send(kMost);
  EXPECT_EQ(window_.room(7, at(49)), 0U);
  EXPECT_EQ(window_.room(7, at(50)), kMost);
  send(kMost);
  EXPECT_EQ(window_.room(7, at(60)), 0U) << "it is waited for again";
  EXPECT_EQ(window_.room(8, at(61)), 1U);
}

TEST_F(SendWindowTest, CountersThatBeganAnew) {
  window_.begin(1000, at(0));
  send(5);
  EXPECT_EQ(window_.room(3, at(1)), kMost - 5);
}

TEST_F(SendWindowTest, WithoutCounters) {
  window_.begin({}, at(0));
  send(kMost);
  EXPECT_EQ(window_.room({}, at(1)), kMost);
}

}  // namespace
}  // namespace transship::network
