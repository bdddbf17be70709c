#include "sys/confinement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "sys/file.h"

namespace transship::sys {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// A /proc with the daemon (self), and a container of process 7 with 8 in it.
class ConfinementTest : public ::testing::Test {
 protected:
  void SetUp() override {
    proc_ = testing::TempDir() + "proc-XXXXXX";
    ASSERT_NE(::mkdtemp(proc_.data()), nullptr);
    namespaces("self", 1);
    for (const char* pid : {"7", "8"}) {
      namespaces(pid, 2);
      link(pid, "user", 1);
      status(pid, pid, kPlain);
    }
    wanted_.capabilities = capability_mask("CHOWN") | capability_mask("CAP_KILL");
    wanted_.own_namespaces = {"mnt", "pid", "net", "ipc", "uts", "cgroup"};
  }
  void TearDown() override { fs::remove_all(proc_); }
  void link(const std::string& pid, const std::string& kind, int number) {
    auto path = fmt::format("{}/{}/ns/{}", proc_, pid, kind);
    fs::create_directories(fs::path(path).parent_path());
    fs::remove(path);
    fs::create_symlink(fmt::format("{}:[{}]", kind, number), path);
  }
  void namespaces(const std::string& pid, int number) {
    for (const char* kind : {"mnt", "pid", "net", "ipc", "uts", "user", "cgroup"}) link(pid, kind, number);
  }
  void status(const std::string& pid, const std::string& thread, const std::string& text) {
    auto dir = fmt::format("{}/{}/task/{}", proc_, pid, thread);
    fs::create_directories(dir);
    ASSERT_TRUE(write_file_atomic(dir + "/status", text));
  }
  std::string refusal() {
    auto r = check_confinement(7, {7, 8}, wanted_, proc_);
    return r ? "" : r.error().message();
  }
  static constexpr const char* kPlain =
      "State:\tS (sleeping)\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000021\nCapEff:\t0000000000000021\n"
      "CapBnd:\t0000000000000021\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n";
  static std::string with(const std::string& from, const std::string& to) {
    std::string text = kPlain;
    auto at = text.find(from);
    return text.replace(at, from.size(), to);
  }
  std::string proc_;
  Confinement wanted_;
};

TEST_F(ConfinementTest, WhatItWasToGet) { EXPECT_EQ(refusal(), ""); }

TEST_F(ConfinementTest, CapabilitiesOfAnyThreadInAnySet) {
  status("8", "9", with("CapBnd:\t0000000000000021", "CapBnd:\t0000000000200021"));
  EXPECT_THAT(refusal(), HasSubstr("process 8 has capabilities that it may not have (CapBnd): SYS_ADMIN"));
  status("8", "9", with("CapAmb:\t0000000000000000", "CapAmb:\t0000000000001000"));
  EXPECT_THAT(refusal(), HasSubstr("NET_ADMIN"));
  wanted_.capabilities |= capability_mask("NET_ADMIN");
  EXPECT_EQ(refusal(), "");
  status("8", "9", with("CapEff:", "Nothing:"));
  EXPECT_THAT(refusal(), HasSubstr("CapEff"));
}

TEST_F(ConfinementTest, FiltersAndPrivileges) {
  status("7", "7", with("Seccomp:\t2", "Seccomp:\t0"));
  EXPECT_THAT(refusal(), HasSubstr("process 7 has no seccomp filter"));
  wanted_.seccomp = false;
  EXPECT_EQ(refusal(), "");
  wanted_.no_new_privileges = true;
  EXPECT_THAT(refusal(), HasSubstr("may gain privileges"));
}

TEST_F(ConfinementTest, Namespaces) {
  link("7", "net", 1);
  EXPECT_THAT(refusal(), HasSubstr("process 7 has the host's net namespace"));
  link("7", "net", 2);
  link("8", "mnt", 1);
  EXPECT_THAT(refusal(), HasSubstr("process 8 has another mnt namespace than its container"));
  link("8", "mnt", 2);
  link("7", "user", 5);
  EXPECT_THAT(refusal(), HasSubstr("another user namespace"));
}

TEST_F(ConfinementTest, OneThatHasEndedIsNobody) {
  fs::remove_all(proc_ + "/8");
  EXPECT_EQ(refusal(), "");
  fs::remove_all(proc_ + "/7");
  EXPECT_THAT(refusal(), HasSubstr("is gone"));
}

TEST_F(ConfinementTest, AppArmor) {
  ASSERT_TRUE(make_dirs(proc_ + "/7/attr"));
  ASSERT_TRUE(write_file_atomic(proc_ + "/7/attr/current", "unconfined\n"));
  EXPECT_EQ(refusal(), "");
  wanted_.apparmor_profile = "containers-default";
  EXPECT_THAT(refusal(), HasSubstr("AppArmor label unconfined"));
}

TEST(Capabilities, HaveNumbers) {
  EXPECT_EQ(capability_mask("CAP_CHOWN"), 1U);
  EXPECT_EQ(capability_mask("SYS_ADMIN"), uint64_t{1} << 21);
  EXPECT_EQ(capability_mask("CHECKPOINT_RESTORE"), uint64_t{1} << 40);
  EXPECT_EQ(capability_mask("NONE"), 0U);
}

}  // namespace
}  // namespace transship::sys
