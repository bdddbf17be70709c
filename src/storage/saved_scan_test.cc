#include "storage/saved_scan.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "storage/block_hashes.h"
#include "storage/saved_bytes.h"
#include "storage/scan_diff.h"
#include "storage/test_tree.h"

namespace transship::storage {
namespace {

namespace fs = std::filesystem;
using namespace transship::storage::testing;

Scan scan_of(const TempDir& tree) {
  auto scan = scan_tree(tree.fd(), never());
  TS_CHECK(scan, "{}", scan.error().message());
  return std::move(*scan);
}

Scan parsed(const std::string& text) {
  auto scan = parse_scan(text);
  TS_CHECK(scan, "{}", scan.error().message());
  return std::move(*scan);
}

// What of a scan is saved.
std::vector<std::string> lines(const Scan& scan) {
  std::vector<std::string> all;
  for (uint32_t i = 0; i < scan.entries(); ++i) {
    const Node& n = scan.nodes()[i];
    auto first = n.child_count == 0 ? 0 : n.first_child;
    all.push_back(fmt::format("{}: {} {} {} {} {} {} {} {} {} {:o} {} {}", scan.path(i), n.inode, n.ctime_ns,
                              n.mtime_ns, n.size, n.blocks, n.rdev, n.parent, first, n.child_count, n.mode, n.nlink,
                              n.unsettled));
  }
  return all;
}

std::string with_checksum(std::string text) {
  text.resize(text.size() - sizeof(uint64_t));
  end_record(text);
  return text;
}

TEST(SavedScan, ComesBackAsItWas) {
  TempDir tree;
  (void)make_nasty_tree(tree.path());
  write_text(tree / "\xff\n\x01 \\", "");
  write_text(tree / std::string(255, '\xfe'), "");
  auto scan = scan_of(tree);
  auto text = serialize(scan);
  EXPECT_LT(text.size(), scan.entries() * 150);
  auto again = parsed(text);
  EXPECT_EQ(lines(again), lines(scan));
  EXPECT_EQ(serialize(again), text);
  EXPECT_EQ(again.disk_bytes(), scan.disk_bytes());
  EXPECT_FALSE(first_difference(again, scan)) << *first_difference(again, scan);
}

TEST(SavedScan, AnEmptyTreeAndASingleFileAreTreesToo) {
  TempDir tree;
  auto empty = scan_of(tree);
  EXPECT_EQ(lines(parsed(serialize(empty))), lines(empty));
  write_text(tree / "file", "text");
  auto file = open_file(tree / "file", O_RDONLY);
  ASSERT_TRUE(file);
  auto one = scan_tree(file->get(), never());
  ASSERT_TRUE(one);
  EXPECT_EQ(lines(parsed(serialize(*one))), lines(*one));
}

TEST(SavedScan, WhatIsNotAsItWasWrittenIsNoScan) {
  TempDir tree;
  fs::create_directories(tree / "a/b");
  for (const char* name : {"a/one", "a/b/two", "three"}) write_text(tree / name, name);
  auto text = serialize(scan_of(tree));
  for (size_t i = 0; i < text.size(); ++i) {
    EXPECT_FALSE(parse_scan(text.substr(0, i)));
    EXPECT_FALSE(parse_scan(text + text.substr(0, i + 1)));
    for (int bit = 0; bit < 8; ++bit) {
      auto bad = text;
      bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
      auto damaged = parse_scan(bad);
      ASSERT_FALSE(damaged);
      EXPECT_EQ(damaged.error().code(), Errc::kCorrupt);
      EXPECT_NE(damaged.error().message().find("damaged"), std::string::npos) << damaged.error().message();
      // As by somebody who makes the checksum fit: a tree, or none.
      auto made = parse_scan(with_checksum(bad));
      if (made) {
        EXPECT_EQ(serialize(*made), with_checksum(bad));
        (void)lines(*made);
      }
    }
  }
}

// One byte of a record is replaced; the offsets are those of the format.
TEST(SavedScan, NamesAndPlacesAreChecked) {
  TempDir tree;
  fs::create_directory(tree / "a");
  write_text(tree / "b", "");
  auto text = serialize(scan_of(tree));
  constexpr size_t kHead = 16, kFixed = 62, kChildren = 48, kMode = 52, kMark = 60, kName = 62;
  size_t a = kHead + kFixed, b = a + kFixed + 1;
  ASSERT_EQ(text.size(), b + kFixed + 1 + 8);
  auto error = [&](size_t at, std::string_view bytes) {
    auto bad = text;
    bad.replace(at, bytes.size(), bytes);
    auto scan = parse_scan(with_checksum(bad));
    return scan ? "none" : scan.error().message();
  };
  EXPECT_EQ(error(a + kName, "a"), "none");
  for (auto never_a_name : {std::string_view("/"), std::string_view("."), std::string_view("\0", 1)})
    EXPECT_NE(error(a + kName, never_a_name).find("a name that cannot be"), std::string::npos);
  EXPECT_NE(error(a + kName, "c").find("not in order"), std::string::npos);
  EXPECT_NE(error(a + kMark, "\x02").find("a mark"), std::string::npos);
  EXPECT_NE(error(kHead + kChildren, "\x01").find("in no directory"), std::string::npos);
  EXPECT_NE(error(kHead + kChildren, "\x03").find("more names than there are"), std::string::npos);
  EXPECT_NE(error(kHead + kChildren, "\xff\xff\xff\xff").find("more names than there are"), std::string::npos);
  EXPECT_NE(error(b + kChildren, "\x01").find("what is no directory"), std::string::npos);
  EXPECT_NE(error(kHead + kMode, std::string_view("\0\x80", 2)).find("what is no directory"), std::string::npos);
  EXPECT_NE(error(8, std::string_view("\0", 1)).find("no root"), std::string::npos);
  EXPECT_NE(error(8, "\xff\xff\xff\xff\xff\xff\xff\xff").find("less names"), std::string::npos);
  EXPECT_NE(error(4, "\x09").find("version 9"), std::string::npos);
  EXPECT_NE(error(0, "TSKF").find("something else"), std::string::npos);
}

TEST(SavedScan, NoMoreNamesThanMayBe) {
  TempDir tree;
  write_text(tree / "one", "");
  auto text = serialize(scan_of(tree));
  EXPECT_TRUE(parse_scan(text, 2));
  auto full = parse_scan(text, 1);
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code(), Errc::kNoSpace);
}

struct Difference : ::testing::Test {
  Difference() {
    fs::create_directories(tree / "d/e");
    for (const char* name : {"d/one", "d/e/two", "top"}) write_text(tree / name, name);
    fs::create_hard_link(tree / "top", tree / "d/linked");
    settle();
    was = scan_of(tree);
  }
  std::string found() const { return first_difference(parsed(serialize(was)), scan_of(tree)).value_or("nothing"); }
  TempDir tree;
  Scan was;
};

TEST_F(Difference, IsNothingWhenNobodyWrote) {
  EXPECT_EQ(found(), "nothing");
  auto fd = open_file(tree / "d/one", O_RDONLY);
  char c = 0;
  EXPECT_EQ(::read(fd->get(), &c, 1), 1);
  EXPECT_EQ(found(), "nothing") << "reading is no change";
}

TEST_F(Difference, WhatWasJustWrittenIsAsItLooks) {
  auto unsettled = [&] { return std::ranges::any_of(was.nodes(), &Node::unsettled); };
  for (int tries = 0; tries < 100 && !unsettled(); ++tries) {  // a busy machine is slower than the tick
    write_text(tree / "d/one", "again");
    was = scan_of(tree);
  }
  ASSERT_TRUE(unsettled());
  EXPECT_EQ(found(), "nothing");
  settle();
  EXPECT_EQ(found(), "nothing");
  write_text(tree / "d/one", "AGAIN");
  EXPECT_EQ(found(), "d/one");
}

TEST_F(Difference, NamesTheFileAndNotItsDirectory) {
  write_text(tree / "d/e/new", "");
  EXPECT_EQ(found(), "d/e/new");
}

TEST_F(Difference, SeesContents) {
  write_text(tree / "d/one", "ONE");
  EXPECT_EQ(found(), "d/one");
}

TEST_F(Difference, SeesAttributes) {
  ASSERT_EQ(::chmod((tree / "d/e").c_str(), 0701), 0);
  EXPECT_EQ(found(), "d/e");
  ASSERT_EQ(::chown((tree / "d/e/two").c_str(), 7, 8), 0);
  EXPECT_EQ(found(), "d/e/two");
}

TEST_F(Difference, SeesWhatIsGone) {
  fs::remove(tree / "d/e/two");
  EXPECT_EQ(found(), "d/e/two");
}

TEST_F(Difference, SeesWhatWasReplaced) {
  struct stat st = {};
  ASSERT_EQ(::stat((tree / "d/one").c_str(), &st), 0);
  fs::copy_file(tree / "d/one", tree / "copy");
  timespec times[2] = {st.st_atim, st.st_mtim};
  ASSERT_EQ(::utimensat(AT_FDCWD, (tree / "copy").c_str(), times, 0), 0);
  fs::rename(tree / "copy", tree / "d/one");
  EXPECT_EQ(found(), "d/one");
}

TEST_F(Difference, SeesOtherLinks) {
  fs::remove(tree / "d/linked");
  EXPECT_EQ(found(), "top");
}

TEST_F(Difference, SeesADirectoryThatIsAnother) {
  fs::rename(tree / "d/e", tree / "away");
  fs::create_directory(tree / "d/e");
  fs::rename(tree / "away/two", tree / "d/e/two");
  fs::remove(tree / "away");
  EXPECT_NE(found(), "nothing");
}

}  // namespace
}  // namespace transship::storage
