// On a real cgroup with a real busy process; skipped where we may not make one.
#include "sys/throttle.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>

#include "base/text.h"
#include "sys/file.h"

namespace transship::sys {
namespace {

class ThrottleTest : public testing::Test {
 protected:
  void SetUp() override {
    auto mount = cgroup2_mount();
    if (!mount) GTEST_SKIP() << mount.error().message();
    path_ = fmt::format("{}/transship-throttle-{}", *mount, ::getpid());
    if (::mkdir(path_.c_str(), 0755) != 0) GTEST_SKIP() << "no cgroup can be made here: " << errno;
    pid_ = ::fork();
    if (pid_ == 0) {
      while (::getppid() != 0) {
      }
    }
    ASSERT_TRUE(write_control(path_ + "/cgroup.procs", std::to_string(pid_)));
  }
  void TearDown() override {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    for (int i = 0; i < 1000 && ::rmdir(path_.c_str()) != 0; ++i) ::usleep(1000);
    EXPECT_FALSE(std::filesystem::exists(path_));
  }
  // CPU time of the process in milliseconds per kWindow.
  double used() {
    auto ticks = [&] {
      auto text = *read_file(fmt::format("/proc/{}/schedstat", pid_), 256);
      return std::stod(text) / 1e6;
    };
    double before = ticks();
    ::usleep(kWindow * 1000);
    return ticks() - before;
  }
  // The same on a machine that others use as well: a few tries, until it is more than `enough`.
  double most_used(double enough) {
    double most = 0;
    for (int i = 0; i < 5 && most <= enough; ++i) most = std::max(most, used());
    return most;
  }
  static constexpr int kWindow = 400;
  std::string path_;
  pid_t pid_ = 0;
};

TEST_F(ThrottleTest, TakesTimeAwayAndGivesItBack) {
  auto cgroup = Cgroup::at(path_);
  ASSERT_TRUE(cgroup);
  auto throttle = Throttle::create(*cgroup);
  ASSERT_TRUE(throttle) << throttle.error().message();
  // Who gets less than that is slowed down by others already.
  double before = most_used(kWindow * 0.5);
  ASSERT_TRUE((*throttle)->set(80));
  double slowed = used();
  EXPECT_LT(slowed, kWindow * 0.45) << (*throttle)->method();
  EXPECT_GT(slowed, 0) << (*throttle)->method();
  ASSERT_TRUE((*throttle)->lift());
  EXPECT_FALSE(*cgroup->frozen());
  EXPECT_FALSE((*throttle)->set(96));
  if (before <= kWindow * 0.5) GTEST_SKIP() << "the machine is too busy to give this process half of a CPU";
  EXPECT_GT(most_used(slowed * 1.5), slowed * 1.5);
}

TEST_F(ThrottleTest, TheEndOfTheObjectLifts) {
  auto cgroup = Cgroup::at(path_);
  ASSERT_TRUE(cgroup);
  {
    auto throttle = Throttle::create(*cgroup);
    ASSERT_TRUE(throttle);
    ASSERT_TRUE((*throttle)->set(80));
    ::usleep(20'000);
  }
  EXPECT_FALSE(*cgroup->frozen());
  EXPECT_GT(used(), 0);
}

}  // namespace
}  // namespace transship::sys
