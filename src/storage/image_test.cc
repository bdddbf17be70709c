#include "storage/image.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/text.h"
#include "storage/test_tree.h"
#include "sys/process.h"

namespace transship::storage {
namespace {

namespace fs = std::filesystem;
using namespace transship::storage::testing;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

const Deadline soon() { return Deadline::in(milliseconds(120'000)); }

ImageStore store_at(const std::string& path) {
  return {.podman = {"podman", "--root", path + "/root", "--runroot", path + "/run", "--storage-driver", "vfs"},
          .location = fmt::format("[vfs@{0}/root+{0}/run]", path)};
}

Result<std::string> podman(const ImageStore& store, std::vector<std::string> arguments) {
  sys::Command c;
  c.argv = store.podman;
  c.argv.insert(c.argv.end(), arguments.begin(), arguments.end());
  c.deadline = soon();
  TS_TRY_ASSIGN(auto r, sys::run_ok(c));
  return std::string(trim(r.out));
}

struct Images : ::testing::Test {
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "not root";
    for (const char* program : {"podman", "skopeo"}) {
      if (!sys::run_ok({.argv = {program, "--version"}})) GTEST_SKIP() << "no " << program;
    }
    fs::create_directories(box / "layer");
    write_text(box / "layer/base", std::string(1'000'000, 'b'));
    ASSERT_TRUE(sys::run_ok({.argv = {"tar", "-C", box / "layer", "-cf", box / "base.tar", "."}}));
    write_text(box / "layer/base", "top");
    write_text(box / "Containerfile", "FROM localhost/base:1\nCOPY layer /\nENV X=1\n");
    from = store_at(box / "from");
    to = store_at(box / "to");
    auto base = podman(from, {"import", "--quiet", box / "base.tar", "localhost/base:1"});
    ASSERT_TRUE(base) << base.error().message();
    auto built = podman(from, {"build", "--quiet", "--isolation", "chroot", "--tag", "localhost/app:1", "--file",
                               box / "Containerfile", box.path()});
    ASSERT_TRUE(built) << built.error().message();
    image_id = *built;
  }
  void TearDown() override {
    for (const auto* s : {&from, &to}) {
      if (!s->location.empty()) (void)podman(*s, {"rmi", "--all", "--force"});
    }
  }
  TempDir box;
  ImageStore from, to;
  std::string image_id;
};

TEST_F(Images, OnlyMissingLayersTravel) {
  auto cancel = never();
  auto image = export_image(from, image_id, box / "out", soon(), cancel);
  ASSERT_TRUE(image) << image.error().message();
  ASSERT_EQ(image->diff_ids.size(), 2U);
  EXPECT_THAT(*present_layers(to, soon(), cancel), IsEmpty());
  EXPECT_EQ(image->files_needed({}).size(), 5U);
  // The destination has the lower layer from another image.
  ASSERT_TRUE(podman(to, {"import", "--quiet", box / "base.tar", "localhost/other:1"}));
  auto present = present_layers(to, soon(), cancel);
  ASSERT_TRUE(present) << present.error().message();
  EXPECT_THAT(*present, Contains(image->diff_ids[0]));
  auto needed = image->files_needed(*present);
  EXPECT_EQ(needed.size(), 4U);
  EXPECT_THAT(needed, Not(Contains(image->blobs[0].file)));
  fs::create_directory(box / "in");
  for (const auto& f : needed) fs::copy_file(image->directory + "/" + f, box / ("in/" + f));
  auto r = import_image(to, box / "in", "localhost/app:1", image_id, soon(), cancel);
  ASSERT_TRUE(r) << r.error().message();
  EXPECT_EQ(*podman(to, {"image", "inspect", "--format", "{{.Id}}", "localhost/app:1"}), image->image_id);
  EXPECT_EQ(*podman(to, {"image", "inspect", "--format", "{{json .RootFS}}", "localhost/app:1"}),
            *podman(from, {"image", "inspect", "--format", "{{json .RootFS}}", "localhost/app:1"}));
  EXPECT_EQ(*podman(to, {"image", "inspect", "--format", "{{.Digest}}", "localhost/app:1"}),
            *podman(from, {"image", "inspect", "--format", "{{.Digest}}", "localhost/app:1"}));
}

TEST_F(Images, MissingOrOtherContentsAreRefused) {
  auto cancel = never();
  auto image = export_image(from, "sha256:" + image_id, box / "out", soon(), cancel);
  ASSERT_TRUE(image) << image.error().message();
  auto r = import_image(to, box / "out", "localhost/app:1", std::string(64, 'a'), soon(), cancel);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kCorrupt);
  auto blob = box / ("out/" + image->blobs[0].file);
  write_text(blob, "not the layer");
  EXPECT_FALSE(import_image(to, box / "out", "localhost/app:1", image_id, soon(), cancel));
  fs::remove(blob);
  r = import_image(to, box / "out", "localhost/app:1", image_id, soon(), cancel);
  ASSERT_FALSE(r);
  EXPECT_THAT(r.error().message(), HasSubstr(image->blobs[0].file));
  EXPECT_EQ(*podman(to, {"images", "--quiet"}), "");
}

TEST_F(Images, WithoutANameItIsKnownByItsId) {
  auto cancel = never();
  ASSERT_TRUE(export_image(from, image_id, box / "out", soon(), cancel));
  auto r = import_image(to, box / "out", "localhost/app@sha256:" + std::string(64, 'a'), image_id, soon(), cancel);
  ASSERT_TRUE(r) << r.error().message();
  EXPECT_THAT(*podman(to, {"images", "--quiet", "--no-trunc"}), HasSubstr(image_id));
}

TEST(ImageIds, AreCheckedBeforeTheyAreUsed) {
  auto cancel = never();
  for (const char* bad : {"", "redis", "--all", "../../etc"})
    EXPECT_EQ(export_image({}, bad, "/nonexistent", soon(), cancel).error().code(), Errc::kInvalidArgument) << bad;
}

}  // namespace
}  // namespace transship::storage
