#include "base/fault.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "base/cancel.h"

namespace transship::fault {
namespace {

namespace fs = std::filesystem;

class FaultPoint : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = testing::TempDir() + "fault-points-" + std::to_string(::getpid());
    fs::remove_all(dir_);
    ASSERT_EQ(::mkdir(dir_.c_str(), 0700), 0);
    ASSERT_TRUE(enable(dir_));
  }
  void TearDown() override {
    detail::enabled = false;
    fs::remove_all(dir_);
  }
  void order(const std::string& point, const std::string& what) { std::ofstream(dir_ + "/" + point) << what; }
  std::string dir_;
};

TEST_F(FaultPoint, FailsOnceAndIsGone) {
  order("source.plan", "fail\n");
  EXPECT_TRUE(at("source.reserve"));
  auto first = at("source.plan");
  ASSERT_FALSE(first);
  EXPECT_NE(first.error().message().find("source.plan"), std::string::npos);
  EXPECT_FALSE(fs::exists(dir_ + "/source.plan"));
  EXPECT_TRUE(at("source.plan"));
}

TEST_F(FaultPoint, DoesNotFailWhereTheCodeGoesOn) {
  order("source.commit.decided", "fail");
  EXPECT_TRUE(at("source.commit.decided"));
}

TEST_F(FaultPoint, Stalls) {
  order("source.plan", "stall 30\n");
  auto begin = Clock::now();
  EXPECT_TRUE(at("source.plan"));
  EXPECT_GE(Clock::now() - begin, milliseconds(30));
}

TEST_F(FaultPoint, Dies) {
  order("source.plan", "die");
  EXPECT_EXIT((void)at("source.plan"), testing::KilledBySignal(SIGKILL), "");
}

TEST_F(FaultPoint, ADirectoryThatOthersMayEnterIsRefused) {
  ASSERT_EQ(::chmod(dir_.c_str(), 0755), 0);
  EXPECT_EQ(enable(dir_).error().code(), Errc::kRefused);
}

TEST(FaultPoints, HaveDifferentNames) {
  std::set<std::string_view> names;
  for (const auto& point : kPoints) EXPECT_TRUE(names.insert(point.name).second) << point.name;
}

}  // namespace
}  // namespace transship::fault
