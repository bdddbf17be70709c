#include "criu/shortcuts.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <tuple>

#include "base/text.h"
#include "criu/mapping_layout.h"
#include "sys/file.h"

namespace transship::criu {
namespace {

constexpr milliseconds kLimit{20'000};

class ShortcutsTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_NE(::mkdtemp(dir_.data()), nullptr); }
  void TearDown() override {
    EXPECT_TRUE(std::filesystem::is_empty(dir_));
    EXPECT_TRUE(sys::remove_tree(dir_));
  }
  std::string probe(const std::string& library) { return probe_shortcuts("criu", library, dir_, Deadline::in(kLimit)); }
  std::string dir_ = "/tmp/ts-shortcuts-XXXXXX";
};

bool at_least(int major, int minor) {
  utsname name{};
  int has_major = 0, has_minor = 0;
  EXPECT_EQ(::uname(&name), 0);
  EXPECT_EQ(std::sscanf(name.release, "%d.%d", &has_major, &has_minor), 2);
  return std::tie(has_major, has_minor) >= std::tie(major, minor);
}

TEST_F(ShortcutsTest, AreInForceInTheRealCriu) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root may load BPF programs";
  if (auto layout = mapping_layout(); !layout) GTEST_SKIP() << layout.error().message();
  if (!at_least(6, 11)) GTEST_SKIP() << "this kernel does not tell which mapping an address is in";
  EXPECT_EQ(probe(TS_CRIU_PRELOAD), kAllShortcuts);
}

TEST_F(ShortcutsTest, ALibraryThatIsNotThereIsSaid) {
  EXPECT_EQ(probe(""), "none: libtransship-criu.so is not installed");
  // The loader only warns of it, and CRIU answers.
  auto found = probe(dir_ + "/no-such.so");
  EXPECT_TRUE(found.starts_with("none; not mappings: ")) << found;
  EXPECT_TRUE(found.contains("; not scans: ")) << found;
}

TEST_F(ShortcutsTest, ACriuThatIsNotThereIsSaid) {
  auto found = probe_shortcuts("/no/such/criu", TS_CRIU_PRELOAD, dir_, Deadline::in(kLimit));
  EXPECT_TRUE(found.starts_with("none: ")) << found;
  EXPECT_TRUE(found.contains("/no/such/criu")) << found;
}

// What a program sees that is started with this as its LD_PRELOAD.
std::string preload_left(const std::string& preload) {
  auto* pipe = ::popen(fmt::format("LD_PRELOAD={} sh -c 'echo $LD_PRELOAD'", preload).c_str(), "r");
  char line[4096] = "";
  if (pipe == nullptr || std::fgets(line, sizeof line, pipe) == nullptr) return "nothing was said";
  EXPECT_EQ(::pclose(pipe), 0);
  return std::string(trim(line));
}

TEST_F(ShortcutsTest, ProgramsThatCriuStartsDoNotGetTheLibrary) {
  EXPECT_EQ(preload_left(TS_CRIU_PRELOAD), "");
  // The loader warns of what is not there, and goes on.
  EXPECT_EQ(preload_left(std::string(TS_CRIU_PRELOAD) + ":/no/such.so"), "/no/such.so");
}

TEST_F(ShortcutsTest, AReportOfAnotherSizeIsRefused) {
  auto file = dir_ + "/report";
  ASSERT_TRUE(sys::write_file_atomic(file, "short"));
  auto found = read_shortcuts(file);
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().code(), Errc::kCorrupt);
  EXPECT_EQ(::unlink(file.c_str()), 0);
}

TEST_F(ShortcutsTest, WhatWasUsedIsNamed) {
  EXPECT_TRUE(used_shortcuts({.can_mappings = true, .can_scans = true}).empty());
  EXPECT_EQ(used_shortcuts({.mappings = 3}), std::vector<std::string>{"mappings"});
  EXPECT_EQ(used_shortcuts({.mappings = 1, .scans = 2}), (std::vector<std::string>{"mappings", "scans"}));
}

}  // namespace
}  // namespace transship::criu
