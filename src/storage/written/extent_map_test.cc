#include "storage/written/extent_map.h"

#include <gtest/gtest.h>

namespace transship::storage {

// For comparisons in tests, and for what they print.
static bool operator==(const Extent& a, const Extent& b) { return a.offset == b.offset && a.length == b.length; }
static void PrintTo(const Extent& e, std::ostream* out) { *out << e.offset << "+" << e.length; }

namespace {

using Kind = PlacedExtent::Kind;
using Map = std::vector<PlacedExtent>;
using Ranges = std::vector<Extent>;

PlacedExtent data(uint64_t offset, uint64_t length, uint64_t place, Kind kind = Kind::kData) {
  return {.kind = kind, .offset = offset, .length = length, .place = place};
}

TEST(ExtentMap, TheSamePlacesAreTheSameHoweverTheyAreDivided) {
  EXPECT_EQ(moved_ranges({data(0, 100, 1000)}, {data(0, 40, 1000), data(40, 60, 1040)}, 100), Ranges());
  EXPECT_EQ(moved_ranges({}, {}, 100), Ranges());
}

TEST(ExtentMap, WhatIsElsewhereIsTold) {
  Map before{data(0, 100, 1000)};
  EXPECT_EQ(moved_ranges(before, {data(0, 40, 1000), data(40, 20, 5000), data(60, 40, 1060)}, 100), (Ranges{{40, 20}}));
  EXPECT_EQ(moved_ranges(before, {data(0, 40, 1000), data(70, 30, 1070)}, 100), (Ranges{{40, 30}}));
  EXPECT_EQ(moved_ranges({data(0, 40, 1000), data(70, 30, 1070)}, before, 100), (Ranges{{40, 30}}));
  EXPECT_EQ(moved_ranges(before, {}, 60), (Ranges{{0, 60}}));
  EXPECT_EQ(moved_ranges(before, {data(0, 50, 1000), data(50, 50, 1050, Kind::kUnwritten)}, 100), (Ranges{{50, 50}}));
}

TEST(ExtentMap, WhatHasNoPlaceYetIsToldAlways) {
  Map map{data(0, 50, 1000), data(50, 10, 0, Kind::kUnplaced)};
  EXPECT_EQ(moved_ranges(map, map, 100), (Ranges{{50, 10}}));
}

TEST(ExtentMap, OfCompressedExtentsOnlyTheSameOneIsTheSame) {
  Map whole{data(0, 128, 1000, Kind::kEncoded)};
  EXPECT_EQ(moved_ranges(whole, whole, 128), Ranges());
  EXPECT_EQ(moved_ranges(whole, {data(0, 64, 1000, Kind::kEncoded), data(64, 64, 1000, Kind::kEncoded)}, 128),
            (Ranges{{0, 128}}));
}

TEST(ExtentMap, RangesAreMergedAndCut) {
  EXPECT_EQ(merge_ranges({{50, 10}, {0, 10}, {10, 5}, {52, 3}, {90, 20}, {200, 1}}, 100),
            (Ranges{{0, 15}, {50, 10}, {90, 10}}));
  EXPECT_EQ(merge_ranges({}, 100), Ranges());
}

}  // namespace
}  // namespace transship::storage
