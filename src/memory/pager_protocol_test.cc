#include "memory/pager_protocol.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace transship::memory {
namespace {

PagerMessage sample(size_t ranges) {
  PagerMessage m;
  m.word = PagerWord::kExpect;
  m.space = {.kind = SpaceKind::kTask, .id = 7};
  m.number = 11;
  for (size_t i = 0; i < ranges; ++i) m.ranges.push_back({.address = i * 3 * kPageBytes, .pages = i + 1});
  m.text = "what is wrong";
  return m;
}

void expect_same(const PagerMessage& got, const PagerMessage& want) {
  EXPECT_EQ(got.word, want.word);
  EXPECT_EQ(got.space, want.space);
  EXPECT_EQ(got.number, want.number);
  EXPECT_EQ(got.ranges, want.ranges);
  EXPECT_EQ(got.text, want.text);
}

TEST(PagerProtocol, WhatIsSaidIsHeard) {
  // Most messages have no ranges.
  for (size_t ranges : {size_t{0}, size_t{1}, kMaxPagerRanges}) {
    auto got = decode(encode(sample(ranges)));
    ASSERT_TRUE(got) << got.error().message();
    expect_same(*got, sample(ranges));
  }
}

TEST(PagerProtocol, OfAnyOtherLengthIsNoMessage) {
  auto packet = encode(sample(2));
  for (size_t bytes = 0; bytes < packet.size(); ++bytes) {
    auto got = decode(std::string_view(packet).substr(0, bytes));
    ASSERT_FALSE(got) << bytes;
    EXPECT_EQ(got.error().code(), Errc::kPeerProtocol);
  }
  EXPECT_FALSE(decode(packet + "x"));
}

TEST(PagerProtocol, NumbersThatCannotBeAreRefused) {
  auto good = encode(sample(0));
  ASSERT_TRUE(decode(good));
  for (size_t at = 0; at < 8; ++at) {  // version and word
    auto packet = good;
    packet[at] = static_cast<char>(packet[at] ^ 0x40);
    EXPECT_FALSE(decode(packet)) << at;
  }
}

}  // namespace
}  // namespace transship::memory
