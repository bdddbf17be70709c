#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>

#include "sys/cgroup.h"
#include "sys/file.h"
#include "sys/process.h"
#include "sys/search_path.h"
#include "sys/task_tree.h"

namespace transship::sys {
namespace {

using testing::HasSubstr;

class SysTest : public testing::Test {
 protected:
  SysTest() {
    std::string pattern = testing::TempDir() + "/sysXXXXXX";
    dir_ = ::mkdtemp(pattern.data());
  }
  ~SysTest() override { (void)remove_tree(dir_); }
  std::string dir_;
};

TEST_F(SysTest, RunGivesOutputAndCode) {
  auto r = run({.argv = {"sh", "-c", "cat; echo oops >&2; exit 3"}, .input = "hello"});
  ASSERT_TRUE(r);
  EXPECT_EQ(r->out, "hello");
  EXPECT_EQ(r->err, "oops\n");
  EXPECT_EQ(r->exit_code, 3);
}

TEST_F(SysTest, RunOkQuotesStderr) {
  auto r = run_ok({.argv = {"sh", "-c", "echo no room >&2; exit 1"}});
  ASSERT_FALSE(r);
  EXPECT_THAT(r.error().message(), HasSubstr("no room"));
}

TEST_F(SysTest, RunKillsAtTheDeadline) {
  auto r = run({.argv = {"sh", "-c", "sleep 30 & wait"}, .deadline = Deadline::in(milliseconds(50))});
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kTimeout);
}

TEST_F(SysTest, MissingProgramIsSaidAtOnce) {
  auto r = run({.argv = {"/no/such/program"}});
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kNotFound);
  EXPECT_THAT(r.error().message(), HasSubstr("/no/such/program"));
}

TEST_F(SysTest, EnvironmentReplacesWhatWeHave) {
  auto r = run_ok({.argv = {"sh", "-c", "env | grep '^PATH='"}, .env = {"PATH=/bin:/usr/bin:/replaced"}});
  ASSERT_TRUE(r) << r.error().message();
  EXPECT_EQ(r->out, "PATH=/bin:/usr/bin:/replaced\n");
}

TEST_F(SysTest, FindsTheFirstProgramThatCanBeRun) {
  for (const char* dir : {"/a", "/b", "/c"}) std::filesystem::create_directory(dir_ + dir);
  std::filesystem::create_directory(dir_ + "/a/tool");
  ASSERT_TRUE(write_file_atomic(dir_ + "/b/tool", "not to be run", 0644));
  ASSERT_TRUE(write_file_atomic(dir_ + "/c/tool", "#!/bin/sh\n", 0755));
  auto path = fmt::format("{0}/a::{0}/none:{0}/b:{0}/c", dir_);
  EXPECT_EQ(find_program("tool", path).value(), dir_ + "/c/tool");
  EXPECT_EQ(find_program(dir_ + "/c/tool", "").value(), dir_ + "/c/tool");
  EXPECT_EQ(find_program(dir_ + "/b/tool", path).error().code(), Errc::kNotFound);
  EXPECT_EQ(find_program("other", path).error().code(), Errc::kNotFound);
  EXPECT_EQ(find_program("tool", "").error().code(), Errc::kNotFound);
  EXPECT_FALSE(search_path().empty());
}

TEST_F(SysTest, ChildIsKilledWhenDropped) {
  pid_t pid = -1;
  {
    auto child = Child::spawn({.argv = {"sleep", "30"}});
    ASSERT_TRUE(child);
    pid = child->pid();
    EXPECT_FALSE(process_ended(pid));
    EXPECT_TRUE(start_time(pid));
  }
  EXPECT_TRUE(process_ended(pid));
}

// The namespace's descriptor is the very number that the program is to get another one under.
TEST_F(SysTest, ChildJoinsMountsBeforeItsDescriptorsArePlaced) {
  if (::geteuid() != 0) GTEST_SKIP() << "joining a mount namespace needs root";
  auto ns = open_file("/proc/self/ns/mnt", O_RDONLY);
  auto root = open_file("/", O_RDONLY | O_DIRECTORY);
  auto content = open_file("/proc/self/comm", O_RDONLY);
  ASSERT_TRUE(ns && root && content);
  Child::Options options{.argv = {"sh", "-c", fmt::format("read name <&{} && test -n \"$name\"", ns->get())}};
  options.mount_namespace = ns->get();
  options.root = root->get();
  options.extra_fd = content->get();
  options.extra_fd_as = ns->get();
  auto child = Child::spawn(options);
  ASSERT_TRUE(child) << child.error().message();
  EXPECT_EQ(*child->wait(Deadline::in(milliseconds(5000))), 0);
}

TEST_F(SysTest, DescriptorTableHasRoomAtOnce) {
  reserve_descriptors(777);
  auto status = read_file("/proc/self/status");
  ASSERT_TRUE(status);
  auto at = status->find("FDSize:");
  ASSERT_NE(at, std::string::npos);
  EXPECT_GE(std::stoi(status->substr(at + 7)), 777);
  // And nothing of it is in use.
  EXPECT_EQ(::fcntl(776, F_GETFD), -1);
}

TEST_F(SysTest, FilesAreWrittenWholeOrNotAtAll) {
  std::string path = dir_ + "/a";
  ASSERT_TRUE(write_file_atomic(path, "one"));
  ASSERT_TRUE(write_file_atomic(path, "two"));
  EXPECT_EQ(*read_file(path), "two");
  EXPECT_FALSE(read_file(path, 2));
  EXPECT_FALSE(write_file_atomic(dir_ + "/none/a", "x"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir_), {}), 1);
}

TEST_F(SysTest, WhatIsWrittenOnceStays) {
  auto path = dir_ + "/key";
  ASSERT_TRUE(write_file_once(path, "first"));
  ASSERT_TRUE(write_file_once(path, "second"));
  EXPECT_EQ(*read_file(path), "first");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir_), {}), 1) << "no temporary file stays";
  EXPECT_EQ(std::filesystem::status(path).permissions(), std::filesystem::perms(0600));
  EXPECT_FALSE(write_file_once(dir_ + "/none/key", "x"));
}

TEST_F(SysTest, Meminfo) {
  ASSERT_TRUE(write_file_atomic(dir_ + "/m", "MemTotal:  100 kB\nMemAvailable:     10 kB\n"));
  EXPECT_EQ(*memory_available(dir_ + "/m"), 10240U);
  EXPECT_EQ(*memory_total(dir_ + "/m"), 102400U);
}

TEST_F(SysTest, FindsCgroup2InMountinfo) {
  ASSERT_TRUE(write_file_atomic(dir_ + "/i",
                                "30 20 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
                                "40 20 0:36 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"));
  EXPECT_EQ(*cgroup2_mount(dir_ + "/i"), "/sys/fs/cgroup/unified");
  ASSERT_TRUE(write_file_atomic(dir_ + "/j", "30 20 0:26 / / rw - ext4 /dev/vda rw\n"));
  EXPECT_EQ(cgroup2_mount(dir_ + "/j").error().code(), Errc::kKernelFeatureMissing);
}

// A process that was just restored has nothing of its shared memory in its page tables.
TEST_F(SysTest, SharedMemoryThatNobodyHasTouchedCounts) {
  constexpr size_t kBytes = 8U << 20;
  auto before = inspect_tasks(::getpid(), {});
  ASSERT_TRUE(before) << before.error().message();
  Fd memory(::memfd_create("sys-test", MFD_CLOEXEC));
  ASSERT_TRUE(write_all(memory.get(), std::string(kBytes, 'x')));
  auto after = inspect_tasks(::getpid(), {});
  ASSERT_TRUE(after) << after.error().message();
  EXPECT_GE(after->shared_bytes, before->shared_bytes + kBytes);
  EXPECT_LT(after->shared_bytes, before->shared_bytes + 2 * kBytes);
  EXPECT_GE(after->memory_bytes, after->shared_bytes);
}

}  // namespace
}  // namespace transship::sys
