#include "sys/arrival_mark.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace transship::sys {
namespace {

namespace fs = std::filesystem;

class ArrivalMarkTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string made = fs::current_path() / "arrival-mark-XXXXXX";
    ASSERT_NE(::mkdtemp(made.data()), nullptr);
    top_ = made;
    auto probe = make_marked_dirs(top_ + "/probe", "p");
    if (!probe) GTEST_SKIP() << probe.error().message();
    ASSERT_TRUE(remove_marked_dirs(top_ + "/probe", "p"));
  }
  void TearDown() override { fs::remove_all(top_); }
  static void put(const std::string& path) { std::ofstream(path) << "x"; }
  std::string top_;
};

TEST_F(ArrivalMarkTest, WhatWasMadeGoesWithAllAboveThatWasMade) {
  auto path = top_ + "/srv/data/deep";
  ASSERT_TRUE(make_marked_dirs(path, "m1"));
  put(path + "/file");
  ASSERT_TRUE(remove_marked_dirs(path, "another"));
  EXPECT_TRUE(fs::exists(path + "/file"));
  ASSERT_TRUE(remove_marked_dirs(path, "m1"));
  EXPECT_FALSE(fs::exists(top_ + "/srv"));
  EXPECT_TRUE(fs::exists(top_));
  EXPECT_TRUE(remove_marked_dirs(path, "m1")) << "nothing is there any more";
}

TEST_F(ArrivalMarkTest, WhatWasThereIsEmptiedAndStays) {
  auto path = top_ + "/data";
  fs::create_directory(path);
  ASSERT_TRUE(make_marked_dirs(path, "m1"));
  put(path + "/file");
  fs::create_directory(path + "/below");
  ASSERT_TRUE(remove_marked_dirs(path, "m1"));
  EXPECT_TRUE(fs::is_empty(path));
  put(path + "/theirs");
  EXPECT_TRUE(remove_marked_dirs(path, "m1"));
  EXPECT_TRUE(fs::exists(path + "/theirs")) << "it has no mark any more";
}

TEST_F(ArrivalMarkTest, WhatHasArrivedStays) {
  auto path = top_ + "/srv/data";
  ASSERT_TRUE(make_marked_dirs(path, "m1"));
  ASSERT_TRUE(make_marked_dirs(path, "m1")) << "a second mount of it";
  put(path + "/file");
  unmark_dirs(path, "m1");
  ASSERT_TRUE(remove_marked_dirs(path, "m1"));
  EXPECT_TRUE(fs::exists(path + "/file"));
  EXPECT_EQ(make_marked_dirs(path, "m2").error().code(), Errc::kAlreadyExists);
}

}  // namespace
}  // namespace transship::sys
