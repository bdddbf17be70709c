#include "migrate/rootfs_rounds.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace transship::migrate {
namespace {

using ::testing::HasSubstr;

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

class RootfsRoundsTest : public ::testing::Test {
 protected:
  // Reads a round to its end; "bad" in it is an error.
  Result<> apply(storage::Reader& in) {
    std::string got;
    std::array<std::byte, 64> buffer;
    while (true) {
      TS_TRY_ASSIGN(size_t n, in.read(buffer));
      if (n == 0) break;
      got.append(reinterpret_cast<const char*>(buffer.data()), n);
    }
    applied_.push_back(got);
    if (got.contains("bad")) return fail(Errc::kPeerProtocol, "{}", got);
    return {};
  }
  std::vector<std::string> applied_;  // of one thread at a time, which is waited for
  Cancel cancel_ = Cancel::create().value();
  RootfsRounds rounds_{cancel_, [this](storage::Reader& in) { return apply(in); }};
};

TEST_F(RootfsRoundsTest, OneAfterTheOther) {
  ASSERT_TRUE(rounds_.receive("round-0", 0, bytes("one ")));
  ASSERT_TRUE(rounds_.receive("round-0", 4, bytes("two")));
  ASSERT_TRUE(rounds_.receive("round-0", 7, {}));
  ASSERT_TRUE(rounds_.wait_applied("round-0"));
  ASSERT_TRUE(rounds_.receive("round-1", 0, bytes("bad")));
  ASSERT_TRUE(rounds_.receive("round-1", 3, {}));
  EXPECT_EQ(rounds_.wait_applied("round-1").error().message(), "bad");
  EXPECT_THAT(applied_, ::testing::ElementsAre("one two", "bad"));
}

// Each would be a thread and two descriptors, and two of them could change the same file at the same time.
TEST_F(RootfsRoundsTest, NoSecondOneBesideIt) {
  ASSERT_TRUE(rounds_.receive("round-0", 0, bytes("x")));
  auto second = rounds_.receive("round-1", 0, bytes("y"));
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), Errc::kPeerProtocol);
  EXPECT_THAT(second.error().message(), HasSubstr("began before \"round-0\" was over"));
  EXPECT_FALSE(rounds_.wait_applied("round-1"));
  // Its end counts only when it was asked for.
  ASSERT_TRUE(rounds_.receive("round-0", 1, {}));
  EXPECT_FALSE(rounds_.receive("round-1", 0, bytes("y")));
  ASSERT_TRUE(rounds_.wait_applied("round-0"));
  EXPECT_TRUE(rounds_.receive("round-1", 0, bytes("y")));
}

TEST_F(RootfsRoundsTest, WhatDoesNotComeNext) {
  EXPECT_EQ(rounds_.receive("round-0", 5, bytes("x")).error().code(), Errc::kPeerProtocol);
  ASSERT_TRUE(rounds_.receive("round-0", 0, bytes("x")));
  EXPECT_EQ(rounds_.receive("round-0", 0, bytes("x")).error().code(), Errc::kPeerProtocol);
  ASSERT_TRUE(rounds_.receive("round-0", 1, {}));
  EXPECT_THAT(rounds_.receive("round-0", 1, bytes("x")).error().message(), HasSubstr("has ended"));
}

TEST_F(RootfsRoundsTest, NoneComesOnceItIsComplete) {
  ASSERT_TRUE(rounds_.receive("round-0", 0, bytes("x")));
  ASSERT_TRUE(rounds_.receive("round-0", 1, {}));
  EXPECT_THAT(rounds_.close().error().message(), HasSubstr("is not complete"));
  ASSERT_TRUE(rounds_.wait_applied("round-0"));
  ASSERT_TRUE(rounds_.close());
  EXPECT_EQ(rounds_.receive("round-1", 0, bytes("x")).error().code(), Errc::kPeerProtocol);
  EXPECT_EQ(rounds_.wait_applied("round-1").error().code(), Errc::kPeerProtocol);
}

TEST_F(RootfsRoundsTest, EndsWithTheMove) {
  ASSERT_TRUE(rounds_.receive("round-0", 0, bytes("x")));
  rounds_.end();
  EXPECT_THAT(applied_, ::testing::IsEmpty());
  EXPECT_EQ(rounds_.receive("round-0", 1, bytes("x")).error().code(), Errc::kCancelled);
  EXPECT_EQ(rounds_.wait_applied("round-0").error().code(), Errc::kCancelled);
}

}  // namespace
}  // namespace transship::migrate
