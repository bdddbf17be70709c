#include "memory/fill_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

namespace transship::memory {
namespace {

using Piece = FillMap::Piece;

TEST(FillMap, NeighboursStayApart) {
  FillMap map;
  map.add({.address = 0x1000, .bytes = 0x2000, .image = 0x1000});
  map.add({.address = 0x3000, .bytes = 0x1000, .image = 0x3000});
  EXPECT_EQ(map.bytes(), 0x3000U);
  EXPECT_EQ(map.at(0x2000), (Piece{.address = 0x2000, .bytes = 0x1000, .image = 0x2000}));
  EXPECT_EQ(map.at(0x4000), std::nullopt);
  EXPECT_EQ(map.next(0), (Piece{.address = 0x1000, .bytes = 0x2000, .image = 0x1000}));
  EXPECT_EQ(map.next(0x4000), std::nullopt);
}

TEST(FillMap, RemovingFromTheMiddleLeavesBothEnds) {
  FillMap map;
  map.add({.address = 0x10000, .bytes = 0x10000, .image = 0x50000});
  EXPECT_EQ(map.remove(0x14000, 0x2000), 0x2000U);
  EXPECT_EQ(map.remove(0x14000, 0x2000), 0U);
  EXPECT_EQ(map.at(0x13000)->bytes, 0x1000U);
  EXPECT_EQ(map.at(0x14000), std::nullopt);
  EXPECT_EQ(map.next(0x14000), (Piece{.address = 0x16000, .bytes = 0xa000, .image = 0x56000}));
}

TEST(FillMap, MovedPagesKeepTheirImageAddress) {
  FillMap map;
  map.add({.address = 0x10000, .bytes = 0x8000, .image = 0x10000});
  map.add({.address = 0x40000, .bytes = 0x8000, .image = 0x40000});
  map.move(0x12000, 0x41000, 0x3000);
  EXPECT_EQ(map.at(0x42000)->image, 0x13000U);
  EXPECT_EQ(map.at(0x44000)->image, 0x44000U);
  EXPECT_EQ(map.at(0x12000), std::nullopt);
  EXPECT_EQ(map.bytes(), 0xd000U);
  // And again, and to a place that overlaps the old one.
  map.move(0x41000, 0x42000, 0x3000);
  EXPECT_EQ(map.at(0x42000)->image, 0x12000U);
}

// Against a map that has each page by itself.
TEST(FillMap, SameAsPageByPage) {
  std::mt19937 random(42);
  auto any = [&](uint64_t end) { return random() % end; };
  for (int run = 0; run < 50; ++run) {
    FillMap map;
    std::map<uint64_t, uint64_t> pages;
    for (int step = 0; step < 200; ++step) {
      uint64_t a = any(64);
      uint64_t b = any(64);
      uint64_t n = 1 + any(16);
      switch (any(3)) {
        case 0:
          map.add({.address = a << 12, .bytes = n << 12, .image = b << 12});
          for (uint64_t i = 0; i < n; ++i) pages[a + i] = b + i;
          break;
        case 1:
          map.remove(a << 12, n << 12);
          for (uint64_t i = 0; i < n; ++i) pages.erase(a + i);
          break;
        default: {
          map.move(a << 12, b << 12, n << 12);
          std::map<uint64_t, uint64_t> moved;
          for (uint64_t i = 0; i < n; ++i) {
            if (auto it = pages.find(a + i); it != pages.end()) moved[b + i] = it->second;
            pages.erase(a + i);
          }
          for (uint64_t i = 0; i < n; ++i) pages.erase(b + i);
          pages.merge(moved);
        }
      }
      ASSERT_EQ(map.bytes(), pages.size() << 12);
      for (uint64_t i = 0; i < 96; ++i) {
        auto got = map.at(i << 12);
        auto want = pages.find(i);
        ASSERT_EQ(got.has_value(), want != pages.end()) << i;
        if (got) {
          ASSERT_EQ(got->image, want->second << 12) << i;
        }
      }
    }
  }
}

}  // namespace
}  // namespace transship::memory
