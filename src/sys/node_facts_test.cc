#include "sys/node_facts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "sys/file.h"

namespace transship::sys {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr const char* kV2 = "40 20 0:36 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n";
constexpr const char* kV1 = "30 20 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";

TEST(NodeFacts, CgroupMode) {
  EXPECT_EQ(cgroup_mode_of(kV2), "v2");
  EXPECT_EQ(cgroup_mode_of(kV1), "v1");
  EXPECT_EQ(cgroup_mode_of(std::string(kV1) + kV2), "hybrid");
  EXPECT_EQ(cgroup_mode_of("30 20 0:26 / / rw - ext4 /dev/vda rw\n"), "none");
}

TEST(NodeFacts, VersionsAreFoundInWhatProgramsPrint) {
  EXPECT_EQ(version_in("Version: 4.2.1\nGitID: v4.2.1"), "4.2.1");
  EXPECT_EQ(version_in("runc version 1.1.15+ds1\ncommit: 1.1.15+ds1-2"), "1.1.15");
  EXPECT_EQ(version_in("crun version 1.21"), "1.21");
  EXPECT_EQ(version_in("no version"), "");
  EXPECT_EQ(version_in("build 7 of the 2. kind"), "");
}

TEST(NodeFacts, VersionsCompareByNumber) {
  EXPECT_TRUE(version_at_least("4.2", "4.2"));
  EXPECT_TRUE(version_at_least("4.2.1", "4.2"));
  EXPECT_TRUE(version_at_least("4.10", "4.2"));
  EXPECT_TRUE(version_at_least("5", "4.2"));
  EXPECT_FALSE(version_at_least("4", "4.2"));
  EXPECT_FALSE(version_at_least("3.17.1", "4.2"));
  EXPECT_FALSE(version_at_least("", "4.2"));
}

TEST(NodeFacts, VdsoDigestIsStable) {
  EXPECT_EQ(vdso_digest(), vdso_digest());
  EXPECT_EQ(vdso_digest().size(), 16U);
  EXPECT_NE(vdso_digest(), "cbf29ce484222325") << "no symbol was found";
}

class NodeFactsTest : public testing::Test {
 protected:
  NodeFactsTest() {
    std::string pattern = testing::TempDir() + "/factsXXXXXX";
    dir_ = ::mkdtemp(pattern.data());
    EXPECT_TRUE(make_dirs(dir_ + "/proc/self"));
    put("proc/meminfo", "MemTotal: 4096 kB\nMemAvailable: 1024 kB\n");
    put("proc/loadavg", "1.25 0.80 0.60 1/200 4711\n");
    put("proc/self/mountinfo", kV2);
    program("criu", "echo Version: 4.2.1");
    program("runc", "echo runc version 1.1.15");
    program("transship-runtime", "true");
    options_ = {.node = "aws",
                .program_version = "0.1",
                .storage_path = dir_ + "/not/there/yet",
                .criu = dir_ + "/criu",
                .runc = dir_ + "/runc",
                .runtime = dir_ + "/transship-runtime",
                .proc = dir_ + "/proc"};
  }
  ~NodeFactsTest() override { (void)remove_tree(dir_); }
  void put(const std::string& name, const std::string& text, mode_t mode = 0600) {
    EXPECT_TRUE(write_file_atomic(dir_ + "/" + name, text, mode));
  }
  void program(const std::string& name, const std::string& body) { put(name, "#!/bin/sh\n" + body + "\n", 0755); }
  std::string missing() { return testing::PrintToString(collect_node_facts(options_)->missing); }
  std::string dir_;
  NodeFactsOptions options_;
};

TEST_F(NodeFactsTest, CollectsWhatTheHostIs) {
  options_.images_limit = 512ULL * 1024;
  auto f = collect_node_facts(options_);
  ASSERT_TRUE(f) << f.error().message();
  EXPECT_EQ(f->node, "aws");
  EXPECT_EQ(f->memory_total, 4096U * 1024);
  EXPECT_EQ(f->memory_available, 1024U * 1024);
  EXPECT_EQ(f->images_free, 512U * 1024);
  EXPECT_DOUBLE_EQ(f->load_1m, 1.25);
  EXPECT_EQ(f->cgroup_mode, "v2");
  EXPECT_EQ(f->criu_version, "4.2.1");
  EXPECT_EQ(f->runc_version, "1.1.15");
  EXPECT_GT(f->storage_free, 0U);
  EXPECT_GT(f->cpus, 0U);
  EXPECT_GT(f->clock_unix_ms, 1'600'000'000'000);
  EXPECT_THAT(missing(), Not(HasSubstr("CRIU")));
}

TEST_F(NodeFactsTest, SaysWhatIsMissingAndWhatToDo) {
  program("criu", "echo Version: 3.17.1");
  put("proc/self/mountinfo", kV1);
  options_.runc = dir_ + "/no-runc";
  options_.runtime = dir_ + "/no-runtime";
  EXPECT_THAT(missing(), HasSubstr("CRIU 3.17.1 is too old: install 4.2"));
  EXPECT_THAT(missing(), HasSubstr("no-runc"));
  EXPECT_THAT(missing(), HasSubstr("no-runtime is not there"));
  EXPECT_THAT(missing(), HasSubstr("cgroup v2 with its freezer is needed"));
  program("criu", "echo broken library >&2; exit 1");
  EXPECT_THAT(missing(), HasSubstr("broken library"));
}

}  // namespace
}  // namespace transship::sys
