// On a real cgroup; skipped where we may not make one.
#include "sys/cgroup.h"

#include <gtest/gtest.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <thread>

#include "base/text.h"
#include "sys/file.h"

namespace transship::sys {
namespace {

constexpr int kTasks = 24;

// Many, so that some of them wait for a processor when they are let go.
class CgroupTest : public testing::Test {
 protected:
  void SetUp() override {
    auto mount = cgroup2_mount();
    if (!mount) GTEST_SKIP() << mount.error().message();
    path_ = fmt::format("{}/transship-cgroup-{}", *mount, ::getpid());
    if (::mkdir(path_.c_str(), 0755) != 0) GTEST_SKIP() << "no cgroup can be made here: " << errno;
    for (int i = 0; i < kTasks; ++i) {
      pid_t pid = ::fork();
      if (pid == 0)
        while (true) ::pause();
      pids_.push_back(pid);
      ASSERT_TRUE(write_control(path_ + "/cgroup.procs", std::to_string(pid)));
    }
  }
  void TearDown() override {
    for (pid_t pid : pids_) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, __WALL);
    }
    for (int i = 0; i < 1000 && !path_.empty() && ::rmdir(path_.c_str()) != 0; ++i) ::usleep(1000);
  }
  void hold(pid_t pid) {
    ASSERT_EQ(::ptrace(PTRACE_SEIZE, pid, nullptr, nullptr), 0);
    ASSERT_EQ(::ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr), 0);
    ASSERT_EQ(::waitpid(pid, nullptr, __WALL), pid);
  }
  std::string path_;
  std::vector<pid_t> pids_;
};

TEST_F(CgroupTest, IsFrozenAgainWhenATracerHasLetGo) {
  auto cgroup = Cgroup::at(path_);
  ASSERT_TRUE(cgroup);
  for (int round = 0; round < 20; ++round) {
    for (pid_t pid : pids_) hold(pid);
    ASSERT_TRUE(cgroup->freeze(Deadline::in(milliseconds(2000))));
    for (pid_t pid : pids_) ASSERT_EQ(::ptrace(PTRACE_DETACH, pid, nullptr, nullptr), 0);
    auto frozen = cgroup->await_frozen(Deadline::in(milliseconds(2000)));
    ASSERT_TRUE(frozen) << frozen.error().message();
    ASSERT_TRUE(cgroup->thaw(Deadline::in(milliseconds(2000))));
  }
}

TEST_F(CgroupTest, WaitingAsksForNothing) {
  auto cgroup = Cgroup::at(path_);
  ASSERT_TRUE(cgroup);
  auto r = cgroup->await_frozen(Deadline::in(milliseconds(20)));
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kTimeout);
  EXPECT_EQ(trim(*read_file(path_ + "/cgroup.freeze")), "0");
}

TEST_F(CgroupTest, OnlyAnEmptyOneIsRemoved) {
  auto name = "/" + std::filesystem::path(path_).filename().string();
  remove_empty_cgroup(name, Deadline::in(milliseconds(0)));
  EXPECT_TRUE(std::filesystem::exists(path_)) << "it has tasks";
  ASSERT_EQ(::mkdir((path_ + "/below").c_str(), 0755), 0);
  ASSERT_EQ(::mkdir((path_ + "/below/more").c_str(), 0755), 0);
  remove_empty_cgroup(name + "/below", Deadline::in(milliseconds(0)));
  EXPECT_TRUE(std::filesystem::exists(path_ + "/below")) << "it has others below it";
  for (const auto& other :
       {name + "/below/../below/more", "system.slice:libpod" + name, std::string("/"), std::string()})
    remove_empty_cgroup(other, Deadline::in(milliseconds(0)));
  EXPECT_TRUE(std::filesystem::exists(path_ + "/below/more"));
  remove_empty_cgroup(name + "/below/more", Deadline::in(milliseconds(0)));
  remove_empty_cgroup(name + "/below", Deadline::in(milliseconds(0)));
  EXPECT_FALSE(std::filesystem::exists(path_ + "/below"));
}

TEST_F(CgroupTest, TasksThatAreDyingAreWaitedFor) {
  auto name = "/" + std::filesystem::path(path_).filename().string();
  std::thread killer([this] {
    std::this_thread::sleep_for(milliseconds(100));
    for (pid_t pid : pids_) ::kill(pid, SIGKILL);
  });
  remove_empty_cgroup(name, Deadline::in(milliseconds(10'000)));
  killer.join();
  EXPECT_FALSE(std::filesystem::exists(path_));
}

}  // namespace
}  // namespace transship::sys
