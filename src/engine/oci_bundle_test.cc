#include "engine/oci_bundle.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "sys/file.h"

namespace transship::engine {
namespace {

OciBundle load(const std::string& name) {
  auto text = sys::read_file(std::string(TS_SOURCE_DIR) + "/src/engine/testdata/" + name);
  EXPECT_TRUE(text.has_value());
  auto bundle = parse_oci_bundle(*text, "/bundles/x");
  EXPECT_TRUE(bundle.has_value());
  return *bundle;
}

TEST(OciBundle, PodmanWithRunc) {
  auto b = load("podman-runc.json");
  EXPECT_TRUE(b.rootfs.starts_with("/var/lib/containers/storage/overlay/")) << b.rootfs;
  EXPECT_TRUE(b.rootfs.ends_with("/merged"));
  EXPECT_EQ(b.args.at(0), "/usr/bin/redis-server");
  EXPECT_TRUE(b.has_own("cgroup"));
  EXPECT_TRUE(b.has_own("pid"));
  EXPECT_FALSE(b.has_own("network")) << "Podman makes the network namespace itself";
  EXPECT_FALSE(b.uses_host_network());
  EXPECT_TRUE(b.has_seccomp);
  EXPECT_FALSE(b.terminal);
  EXPECT_EQ(b.masked_paths.size(), 12u);
  EXPECT_EQ(std::ranges::count_if(b.mounts, &OciMount::is_bind), 5);
  EXPECT_TRUE(b.cgroups_path.starts_with("/libpod_parent/libpod-"));
  EXPECT_EQ(b.annotations.at("io.container.manager"), "libpod");
}

TEST(OciBundle, PodmanWithCrunAndTerminal) {
  auto b = load("podman-crun-tty.json");
  EXPECT_TRUE(b.terminal);
  EXPECT_TRUE(b.has_own("cgroup"));
  EXPECT_EQ(b.uid, 0u);
}

TEST(OciBundle, RuncSpec) {
  auto b = load("runc-spec.json");
  EXPECT_EQ(b.rootfs, "/bundles/x/rootfs");
  EXPECT_TRUE(b.terminal);
  EXPECT_TRUE(b.has_own("network"));
  EXPECT_EQ(b.args, std::vector<std::string>{"sh"});
  EXPECT_EQ(std::ranges::count_if(b.mounts, &OciMount::is_bind), 0);
}

TEST(OciBundle, WrongTypesAreNotBelieved) {
  auto b = parse_oci_bundle(R"({"root":{"path":"r"},"mounts":7,"process":{"terminal":"yes","user":{"uid":-1}},
                               "linux":{"maskedPaths":[1,"/proc/kcore"],"namespaces":[3]}})",
                            "/b");
  ASSERT_TRUE(b.has_value()) << b.error().message();
  EXPECT_FALSE(b->terminal);
  EXPECT_EQ(b->uid, 0u);
  EXPECT_EQ(b->masked_paths, std::vector<std::string>{"/proc/kcore"});
  EXPECT_TRUE(b->uses_host_network());
}

TEST(OciBundle, NotABundle) {
  for (const auto* text : {"", "[]", "{", R"({"root":{}})"}) {
    auto b = parse_oci_bundle(text, "/b");
    ASSERT_FALSE(b.has_value()) << text;
    EXPECT_EQ(b.error().code(), Errc::kCorrupt);
  }
}

class ResolveInRoot : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ts-bundle-XXXXXX";
    root_ = ::mkdtemp(name);
    std::filesystem::create_directories(root_ + "/run/lock");
    std::filesystem::create_directory(root_ + "/var");
    std::filesystem::create_symlink("../run", root_ + "/var/run");
    std::filesystem::create_symlink("/run", root_ + "/abs");
    std::filesystem::create_symlink("../../../../etc", root_ + "/run/up");
    std::filesystem::create_symlink("loop", root_ + "/loop");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  std::string root_;
};

TEST_F(ResolveInRoot, FollowsLinksButNeverOut) {
  EXPECT_EQ(resolve_in_root(root_, "/var/run/lock"), "/run/lock");
  EXPECT_EQ(resolve_in_root(root_, "/abs/lock"), "/run/lock");
  EXPECT_EQ(resolve_in_root(root_, "/run/up/passwd"), "/etc/passwd");
  EXPECT_EQ(resolve_in_root(root_, "/../../x"), "/x");
  EXPECT_EQ(resolve_in_root(root_, "not//there/./y"), "/not/there/y");
}

TEST_F(ResolveInRoot, EndlessLinksEnd) { EXPECT_EQ(resolve_in_root(root_, "/loop"), "/loop"); }

TEST(Descriptors, OfThisProcess) {
  auto d = descriptors_json(::getpid());
  ASSERT_TRUE(d.has_value());
  EXPECT_EQ(d->front(), '[');
  EXPECT_EQ(std::ranges::count(*d, '"'), 6);
}

}  // namespace
}  // namespace transship::engine
