// What a peer that was broken into could send. Every stream is made with the real writer, so that only the rule under
// test can be the reason for the refusal.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/sysmacros.h>

#include <atomic>
#include <filesystem>
#include <random>

#include "base/thread.h"
#include "storage/archive.h"
#include "storage/beneath.h"
#include "storage/test_tree.h"
#include "storage/tree_delta.h"

namespace transship::storage {
namespace {

namespace fs = std::filesystem;
using namespace transship::storage::testing;
using ::testing::HasSubstr;

class Bytes final : public Writer, public Reader {
 public:
  Result<> write(std::span<const std::byte> data) override {
    bytes.insert(bytes.end(), data.begin(), data.end());
    return {};
  }
  Result<size_t> read(std::span<std::byte> buffer) override {
    size_t n = std::min(buffer.size(), bytes.size() - at);
    std::copy_n(bytes.begin() + static_cast<ptrdiff_t>(at), n, buffer.begin());
    at += n;
    return n;
  }
  std::vector<std::byte> bytes;
  size_t at = 0;
};

Entry file(std::string path) {
  Entry e;
  e.path = std::move(path);
  e.mode = S_IFREG | 0644;
  e.uid = ::getuid();
  e.gid = ::getgid();
  return e;
}

Entry of_mode(std::string path, mode_t mode, dev_t rdev = 0) {
  auto e = file(std::move(path));
  e.mode = mode;
  e.rdev = rdev;
  return e;
}

Entry symlink_to(std::string path, std::string target) {
  auto e = of_mode(std::move(path), S_IFLNK | 0777);
  e.target = std::move(target);
  return e;
}

Entry hard_link(std::string path, std::string target) {
  auto e = file(std::move(path));
  e.kind = Entry::Kind::kHardLink;
  e.target = std::move(target);
  return e;
}

Entry deleted(std::string path) {
  Entry e;
  e.kind = Entry::Kind::kDeleted;
  e.path = std::move(path);
  return e;
}

Bytes stream_of(const std::vector<Entry>& entries, bool with_end = true, uint64_t count_more = 0) {
  Bytes out;
  auto w = ArchiveWriter::create(out);
  TS_CHECK(w);
  for (const auto& e : entries) {
    auto r = (*w)->header(e);
    TS_CHECK(r, "{}", r.error().message());
    if (S_ISREG(e.mode) && e.kind == Entry::Kind::kNode) TS_CHECK((*w)->zeros(e.size));
    if (e.kind == Entry::Kind::kPatch) TS_CHECK((*w)->zeros(e.patch.data_length()));
  }
  Entry end;
  end.kind = Entry::Kind::kEnd;
  end.path = ".";
  end.count = entries.size() + count_more;
  if (with_end) TS_CHECK((*w)->header(end));
  TS_CHECK((*w)->finish());
  return out;
}

struct Hostile : ::testing::Test {
  void SetUp() override {
    fs::create_directory(box / "root");
    write_text(box / "outside", "untouched");
    auto fd = open_file(box / "root", O_RDONLY | O_DIRECTORY);
    ASSERT_TRUE(fd);
    root = std::move(*fd);
  }
  void TearDown() override {
    EXPECT_EQ(fs::file_size(box / "outside"), 9U);
    EXPECT_EQ(fs::hard_link_count(box / "outside"), 1U);
    size_t names = 0;
    for ([[maybe_unused]] const auto& e : fs::directory_iterator(box.path())) ++names;
    EXPECT_EQ(names, 2U) << "something was made beside the root";
  }
  Result<> apply(const std::vector<Entry>& entries, const ApplyLimits& limits = {}) {
    auto stream = stream_of(entries);
    return apply_round(root.get(), stream, limits, never());
  }
  void expect_refused(const std::vector<Entry>& entries, Errc code = Errc::kPeerProtocol,
                      const ApplyLimits& limits = {}) {
    auto r = apply(entries, limits);
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code(), code) << r.error().message();
  }
  TempDir box;
  Fd root;
};

TEST_F(Hostile, PlainEntriesOfTheSameMakingAreAccepted) {
  auto r = apply({of_mode("d", S_IFDIR | 0755), file("d/f"), symlink_to("d/l", "/etc"), hard_link("d/h", "d/f")});
  ASSERT_TRUE(r) << r.error().message();
  EXPECT_TRUE(fs::exists(box / "root/d/h"));
}

TEST_F(Hostile, NamesThatLeaveTheRoot) {
  for (const char* name : {"../outside", "/outside", "a/../../outside", "..", "a/./b", "a//b", "./a", "a/.."}) {
    SCOPED_TRACE(name);
    expect_refused({file(name)});
    expect_refused({deleted(name)});
    expect_refused({file("f"), hard_link("h", name)});
  }
  expect_refused({file(std::string(300, 'x'))});
}

TEST_F(Hostile, WritingThroughALinkSentBefore) {
  expect_refused({symlink_to("way-out", ".."), file("way-out/new")});
  expect_refused({symlink_to("way-out", ".."), deleted("way-out/outside")});
  expect_refused({symlink_to("way-out", ".."), hard_link("h", "way-out/outside")});
  expect_refused({symlink_to("way-out", box.path()), of_mode("way-out/d", S_IFDIR | 0755)});
  ASSERT_TRUE(apply({symlink_to("outside", "../outside"), file("outside")})) << "replaces the link itself";
  EXPECT_TRUE(fs::is_regular_file(fs::symlink_status(box / "root/outside")));
}

TEST_F(Hostile, AttributesThroughALink) {
  ASSERT_TRUE(apply({symlink_to("l", "../outside")}));
  auto before = fs::status(box / "outside").permissions();
  auto e = of_mode("l", S_IFDIR | 0777);
  ASSERT_TRUE(apply({e}));
  EXPECT_EQ(fs::status(box / "outside").permissions(), before);
}

// Somebody else may put a link where a file was made just now: another round, or the container once it runs.
TEST_F(Hostile, AttributesThroughALinkThatComesInBetween) {
  auto before = fs::status(box / "outside").permissions();
  auto made = stream_of({of_mode("x", S_IFREG | 0777)});
  std::atomic<bool> done = false;
  Thread other("swap", [&] {
    auto put = box / "root/x", link = box / "root/l";
    for (; !done; fs::rename(link, put)) fs::create_symlink("../outside", link);
  });
  for (int i = 0; i < 3000; ++i) {
    auto stream = made;
    (void)apply_round(root.get(), stream, {}, never());
  }
  done = true;
  other.join();
  EXPECT_EQ(fs::status(box / "outside").permissions(), before);
}

TEST_F(Hostile, Devices) {
  expect_refused({of_mode("disk", S_IFBLK | 0666, makedev(8, 0))});
  expect_refused({of_mode("mem", S_IFCHR | 0666, makedev(1, 1))});
  expect_refused({of_mode("zero-block", S_IFBLK | 0666, 0)});
  EXPECT_TRUE(fs::is_empty(box / "root"));
}

TEST_F(Hostile, RootIsNothingButADirectory) {
  expect_refused({file(".")});
  expect_refused({symlink_to(".", "/etc")});
  expect_refused({deleted(".")});
}

TEST_F(Hostile, AttributesThatAreNotFiles) {
  auto e = file("f");
  e.xattrs["trusted.overlay.metacopy"] = "";
  expect_refused({e});
  e.xattrs = {{"system.nfs4_acl", "x"}};
  expect_refused({e});
  e.xattrs = {{"user.big", std::string(60'000, 'x')}};
  expect_refused({e}, Errc::kPeerProtocol, {.max_xattr_bytes = 1000});
}

TEST_F(Hostile, MoreThanTheLimits) {
  auto e = file("f");
  e.size = 5000;
  expect_refused({e}, Errc::kNoSpace, {.max_bytes = 4999});
  expect_refused({e}, Errc::kNoSpace, {.max_file_size = 4999});
  expect_refused({file("a"), file("b"), file("c")}, Errc::kNoSpace, {.max_entries = 2});
  expect_refused({file("abcdefgh")}, Errc::kPeerProtocol, {.max_path = 7});
}

TEST_F(Hostile, CutAnywhereIsNoticed) {
  auto e = file("f");
  e.size = 3000;
  auto whole = stream_of({of_mode("d", S_IFDIR | 0755), e, file("g")});
  for (size_t length = 0; length + 1024 < whole.bytes.size(); length += 97) {
    Bytes cut;
    cut.bytes.assign(whole.bytes.begin(), whole.bytes.begin() + static_cast<ptrdiff_t>(length));
    auto r = apply_round(root.get(), cut, {}, never());
    ASSERT_FALSE(r) << "cut at " << length << " of " << whole.bytes.size();
  }
  auto without_end = stream_of({file("g")}, false);
  auto r = apply_round(root.get(), without_end, {}, never());
  ASSERT_FALSE(r);
  EXPECT_THAT(r.error().message(), HasSubstr("cut"));
  auto miscounted = stream_of({file("g")}, true, 1);
  EXPECT_FALSE(apply_round(root.get(), miscounted, {}, never()));
  auto more = stream_of({file("g")});
  more.bytes.resize(more.bytes.size() + (1 << 20));
  EXPECT_FALSE(apply_round(root.get(), more, {}, never()));
}

// ---- patches

Entry patch_of(std::string path, Patch patch) {
  auto e = file(std::move(path));
  e.kind = Entry::Kind::kPatch;
  e.patch = std::move(patch);
  return e;
}

// As our writer would never say it: the text of the ranges is the test's, and so is the length of the data.
Entry odd_patch(std::string path, std::string text, int64_t data) {
  auto e = file(std::move(path));
  e.xattrs[std::string(Entry::kKindAttribute)] = "patch";
  e.xattrs["transship.patch"] = std::move(text);
  e.size = data;
  return e;
}

struct HostilePatch : Hostile {
  void SetUp() override {
    Hostile::SetUp();
    write_text(box / "root/f", std::string(1000, 'f'));
  }
};

TEST_F(HostilePatch, OneOfTheSameMakingIsAccepted) {
  auto r =
      apply({patch_of("f", {1000, 1200, {{10, 20, false}, {1100, 50, true}}}), odd_patch("f", "1200 1200 +0:5", 5)});
  ASSERT_TRUE(r) << r.error().message();
  EXPECT_EQ(fs::file_size(box / "root/f"), 1200U);
}

TEST_F(HostilePatch, OfWhatIsNoPlainFile) {
  fs::create_symlink("../outside", box / "root/link");
  fs::create_symlink("..", box / "root/way-out");
  fs::create_directory(box / "root/d");
  ASSERT_EQ(::mkfifo((box / "root/fifo").c_str(), 0600), 0);
  for (const char* name : {"link", "d", "fifo", "none", "d/none", "none/f", "way-out/outside", "../outside", "."}) {
    SCOPED_TRACE(name);
    expect_refused({patch_of(name, {9, 9, {{0, 5, false}}})});
    expect_refused({patch_of(name, {0, 0, {}})});
  }
  expect_refused({symlink_to("f", "../outside"), patch_of("f", {9, 9, {{0, 5, false}}})});
  expect_refused({deleted("f"), patch_of("f", {1000, 1000, {}})});
  auto directory = odd_patch("d", "9 9", 0);
  directory.mode = S_IFDIR | 0755;
  expect_refused({directory});
}

TEST_F(HostilePatch, RangesThatCannotBe) {
  for (const char* text :
       {"1000 1000 +0:10 +5:5", "1000 1000 +10:5 +0:5", "1000 1000 -10:5 +0:10", "1000 1000 +995:10",
        "1000 1000 +2000:10", "1000 1000 +-5:10", "1000 1000 +0:-10", "1000 -5 +0:10", "-1 1000 +0:10",
        "1000 1000 +0:0 +0:10", "1000", "", "1000 99999999999999999999 +0:10", "1000 1000 +9223372036854775807:10"}) {
    SCOPED_TRACE(text);
    expect_refused({odd_patch("f", text, 10)});
  }
  std::string million = "1000 100000000";
  for (int i = 0; i < 1'000'000; ++i) million += fmt::format(" +{}:1", i * 2);
  expect_refused({odd_patch("f", million.substr(0, 700'000), 10)});
  std::string just_over = "1000 1000000";
  for (size_t i = 0; i <= Patch::kMaxRanges; ++i) just_over += fmt::format(" -{}:1", i * 2);
  expect_refused({odd_patch("f", just_over, 0)});
  EXPECT_EQ(fs::file_size(box / "root/f"), 1000U) << "refused before anything was done";
}

TEST_F(HostilePatch, DataThatDoesNotFitTheRanges) {
  expect_refused({odd_patch("f", "1000 1000 +0:10", 9)});
  expect_refused({odd_patch("f", "1000 1000 +0:10 +20:10", 10)});
  expect_refused({odd_patch("f", "1000 1000 +0:10", 11)});
  expect_refused({odd_patch("f", "1000 1000 -0:10", 11)});
  expect_refused({odd_patch("f", "1000 1000", 1)});
  auto sparse = odd_patch("f", "1000 1000 +0:600", 600);
  sparse.extents = {{512, 88}};
  expect_refused({sparse});
  auto half = file("f");
  half.xattrs[std::string(Entry::kKindAttribute)] = "patch";
  expect_refused({half});
  half.xattrs = {{"transship.patch", "1000 1000"}};
  expect_refused({half});
}

TEST_F(HostilePatch, OfAFileOfAnotherSize) {
  expect_refused({patch_of("f", {999, 1000, {{0, 5, false}}})});
  expect_refused({patch_of("f", {1000, 2000, {}}), patch_of("f", {1000, 1000, {}})});
}

TEST_F(HostilePatch, MoreThanTheLimits) {
  expect_refused({patch_of("f", {1000, 1001, {}})}, Errc::kNoSpace, {.max_file_size = 1000});
  expect_refused({patch_of("f", {1000, 1000, {{0, 600, false}}}), patch_of("f", {1000, 1000, {{0, 600, false}}})},
                 Errc::kNoSpace, {.max_bytes = 1000});
  expect_refused({patch_of("f", {1000, 1000, {}}), patch_of("f", {1000, 1000, {}})}, Errc::kNoSpace,
                 {.max_entries = 1});
}

// Flipped bytes must end in an error or in some tree below the root, never in a crash or beside it (see TearDown).
TEST_F(Hostile, FlippedBytes) {
  auto e = file("dir/f");
  e.size = 2000;
  e.xattrs["user.x"] = "value";
  e.extents = {{1000, 500}};
  auto whole = stream_of({of_mode("dir", S_IFDIR | 0755), e,
                          patch_of("dir/f", {2000, 3000, {{100, 700, false}, {2500, 9, true}}}),
                          symlink_to("dir/l", "f"), hard_link("dir/h", "dir/f"), deleted("x")});
  std::mt19937 random(20'261'122);
  size_t refused = 0;
  for (int i = 0; i < 3000; ++i) {
    auto bad = whole;
    for (int flips = 1 + i % 4; flips > 0; --flips)
      bad.bytes[random() % bad.bytes.size()] = static_cast<std::byte>(random());
    refused += apply_round(root.get(), bad, {.max_file_size = 1 << 20}, never()) ? 0 : 1;
  }
  EXPECT_GT(refused, 1000U);
}

}  // namespace
}  // namespace transship::storage
