// A volume goes back to a host that it left: what stayed there is brought up to date by what the two records say, with
// nothing in memory from before.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <map>
#include <random>

#include "storage/saved_scan.h"
#include "storage/scan_diff.h"
#include "storage/watch/watch_test.h"

namespace transship::storage {
namespace {

namespace fs = std::filesystem;
using namespace transship::storage::testing;
using ::testing::ElementsAreArray;

constexpr int64_t kMiB = 1 << 20;
constexpr int64_t kSize = 2 * kMiB;  // of most large files

// Remembers who asked for what. It names nothing of a file that it follows only since now: whoever believes it before
// everything was compared loses what was written earlier.
class Follower final : public WrittenRanges {
 public:
  Result<> follow(int fd) override {
    ++followed[inode_of(fd)];
    return {};
  }
  Result<std::optional<std::vector<Extent>>> take(int fd, bool /*settle*/) override {
    ++taken;
    if (!followed.contains(inode_of(fd))) return fail(Errc::kNotFound, "not followed");
    return std::optional(std::exchange(ranges[inode_of(fd)], {}));
  }
  static uint64_t inode_of(int fd) {
    struct stat st = {};
    TS_CHECK(::fstat(fd, &st) == 0);
    return st.st_ino;
  }
  std::map<uint64_t, int> followed;
  std::map<uint64_t, std::vector<Extent>> ranges;
  int taken = 0;
};

std::string random_bytes(size_t size, uint32_t seed) {
  std::mt19937_64 random(seed);
  std::string bytes(size, '\0');
  for (size_t at = 0; at + 8 <= size; at += 8) {
    uint64_t eight = random() | 0x0101010101010101;  // no zeros: they could as well be a hole
    bytes.replace(at, 8, reinterpret_cast<const char*>(&eight), 8);
  }
  return bytes;
}

void write_at(const std::string& path, int64_t offset, std::string_view bytes) {
  auto fd = open_file(path, O_WRONLY | O_CREAT, 0644);
  ASSERT_TRUE(fd) << fd.error().message();
  ASSERT_EQ(::pwrite(fd->get(), bytes.data(), bytes.size(), offset), static_cast<ssize_t>(bytes.size()));
}

class ReturningCopy : public ::testing::TestWithParam<FileSystem> {
 protected:
  // Both trees as a move has left them, and the record of the one that is in use from then on.
  void part() {
    fs::create_directories(used / "d/e");
    fs::create_directories(used / "gone/with/all");
    for (const char* name : {"small", "d/small", "d/e/small", "gone/with/all/of-it", "became-a-directory"})
      write_text(used / name, name);
    uint32_t seed = 0;
    for (const char* name : {"large", "d/large", "d/shrinks", "d/grows", "quiet", "replaced", "moved", "linked-later"})
      write_at(used / name, 0, random_bytes(kSize, ++seed));
    write_at(used / "pair-1", 0, random_bytes(kMiB, ++seed));
    fs::create_hard_link(used / "pair-1", used / "d/pair-2");
    write_at(used / "split-1", 0, random_bytes(kMiB, ++seed));
    fs::create_hard_link(used / "split-1", used / "split-2");
    ASSERT_TRUE(move_round(used.fs.fd(), left, nullptr));
    settle();
    auto at_rest = scan_tree(used.fs.fd(), never());
    ASSERT_TRUE(at_rest);
    record = serialize(*at_rest);
    auto there = scan_tree(left.fd(), never());
    ASSERT_TRUE(there);
    record_of_left = serialize(*there);
    same();
  }

  void use() {
    write_text(used / "d/small", "written");
    write_text(used / "d/new", "new");
    fs::remove_all(used / "gone");
    fs::remove(used / "became-a-directory");
    fs::create_directories(used / "became-a-directory/below");
    write_at(used / "large", kMiB + 5, "changed");
    write_at(used / "large", 3 * kMiB / 2, random_bytes(100, 77));
    fs::resize_file(used / "d/shrinks", 3 * kMiB / 2 + 17);
    write_at(used / "d/grows", kSize, random_bytes(300'000, 78));
    auto other = random_bytes(kSize, 6);  // as it was
    other[kMiB] ^= 2;
    write_at(used / "new", 0, other);
    fs::rename(used / "new", used / "replaced");
    fs::rename(used / "moved", used / "d/e/moved");
    write_at(used / "d/pair-2", kMiB / 2, "by the second name");
    fs::create_hard_link(used / "linked-later", used / "a-link");
    write_at(used / "a-link", 17, "both");
    fs::remove(used / "split-2");
    write_at(used / "split-2", 0, random_bytes(kMiB + 1, 79));
    settle();
  }

  // As the two daemons do it: which large files the other side has, by what hashes.
  void ask_the_other_side(const Scan& was, const Scan& now) {
    auto diff = diff_scans(&was, now, {});
    for (uint32_t i = 0; i < now.entries(); ++i) {
      const Node& n = now.nodes()[i];
      if (!diff.send[i] || !S_ISREG(n.mode) || n.size < kLargeFile) continue;
      auto path = now.path(i);
      auto hashes = hash_file(left.fd(), path, 1 << 20, never());
      if (!hashes) continue;
      ASSERT_TRUE(known.put(path, {std::move(*hashes)}));
    }
  }

  void round(const Scan* previous, bool still = false) {
    RoundOptions options{.must_be_still = still, .known = &known, .written = &written, .watch = watch.get()};
    auto next = move_round(used.fs.fd(), left, previous, options, &stats);
    ASSERT_TRUE(next) << next.error().message();
    last = std::move(*next);
  }

  // The left one is on another file system, on which files take other numbers of blocks.
  void same() {
    ASSERT_THAT(described(left.path()), ElementsAreArray(described(used.fs.tree())));
    EXPECT_EQ(links(left.path()), links(used.fs.tree()));
  }
  static std::vector<std::string> described(const std::string& root) {
    auto all = describe(root);
    for (auto& line : all)
      if (auto at = line.find(" blocks="); at != std::string::npos) line.erase(at, line.find(' ', at + 1) - at);
    return all;
  }
  static uint64_t inode(const std::string& path) {
    struct stat st = {};
    TS_CHECK(::stat(path.c_str(), &st) == 0, "{}", path);
    return st.st_ino;
  }
  static std::vector<bool> links(const std::string& root) {
    auto equal = [&](const char* a, const char* b) {
      return fs::exists(root + a) && fs::exists(root + b) && inode(root + a) == inode(root + b);
    };
    return {equal("/pair-1", "/d/pair-2"), equal("/split-1", "/split-2"), equal("/linked-later", "/a-link")};
  }

  WatchedTree used{GetParam()};
  TempDir left;
  std::string record, record_of_left;
  std::unique_ptr<TreeWatch> watch;
  KnownFiles known;
  Follower written;
  RoundStats stats;
  std::optional<Scan> last;
};

TEST_P(ReturningCopy, GetsOnlyWhatIsDifferent) {
  if (!used.fs.missing().empty()) GTEST_SKIP() << used.fs.missing();
  ASSERT_NO_FATAL_FAILURE(part());
  ASSERT_NO_FATAL_FAILURE(use());
  auto there = scan_tree(left.fd(), never());
  EXPECT_FALSE(first_difference(*parse_scan(record_of_left), *there)) << "nobody wrote to it";
  auto made = TreeWatch::create(used.fs.fd());
  ASSERT_TRUE(made) << made.error().message();
  watch = std::move(*made);
  auto was = parse_scan(record);
  ASSERT_TRUE(was) << was.error().message();
  ASSERT_NO_FATAL_FAILURE(ask_the_other_side(*was, *scan_tree(used.fs.fd(), never())));
  EXPECT_TRUE(known.has("large"));
  EXPECT_FALSE(known.has("quiet")) << "not asked for: it did not change";
  EXPECT_FALSE(known.has("pair-1")) << "of several names";
  EXPECT_FALSE(known.has("d/e/moved")) << "not there";
  auto large = inode(left / "large"), quiet = inode(left / "quiet");

  ASSERT_NO_FATAL_FAILURE(round(&*was));
  same();
  EXPECT_NE(watch->stats().walked, "") << "of what was before the watch nothing is told";
  EXPECT_EQ(written.taken, 0) << "nothing is known of what was written before it was followed";
  EXPECT_EQ(stats.deletions, 2U) << "gone, moved";
  EXPECT_EQ(inode(left / "large"), large) << "patched where it is";
  EXPECT_EQ(inode(left / "quiet"), quiet) << "not touched";
  // Whole, of as many MiB: the pair (1), moved (2), split-1 (1, as long as it has its other name there), split-2 (1).
  // Patched: large, shrinks, grows, replaced, linked-later.
  EXPECT_EQ(stats.patched, 5U);
  EXPECT_GT(stats.data_bytes, static_cast<uint64_t>(5 * kMiB));
  EXPECT_LT(stats.data_bytes, static_cast<uint64_t>(5 * kMiB + 800'000));
  EXPECT_GT(stats.read_bytes, static_cast<uint64_t>(14 * kMiB)) << "compared whole";
}

TEST_P(ReturningCopy, GoesOnAsAnyOther) {
  if (!used.fs.missing().empty()) GTEST_SKIP() << used.fs.missing();
  ASSERT_NO_FATAL_FAILURE(part());
  ASSERT_NO_FATAL_FAILURE(use());
  watch = std::move(*TreeWatch::create(used.fs.fd()));
  auto was = parse_scan(record);
  ASSERT_TRUE(was);
  ASSERT_NO_FATAL_FAILURE(ask_the_other_side(*was, *scan_tree(used.fs.fd(), never())));
  ASSERT_NO_FATAL_FAILURE(round(&*was));
  // Unlike before it did not change until now, and is not known.
  write_at(used / "quiet", kMiB, "not any more");
  write_at(used / "large", kMiB / 2, "once more");
  written.ranges[inode(used / "large")] = {{kMiB / 2, 9}};
  fs::remove(used / "d/new");
  settle();
  ASSERT_NO_FATAL_FAILURE(round(&*last));
  same();
  EXPECT_EQ(watch->stats().walked, "");
  EXPECT_EQ(written.taken, 1);
  EXPECT_EQ(stats.patched, 1U) << "large";
  EXPECT_LT(stats.data_bytes, static_cast<uint64_t>(kSize + 2 * kHashBlock));
  ASSERT_NO_FATAL_FAILURE(round(&*last, true));
  same();
  EXPECT_EQ(stats.entries, 0U);
}

// The record of another tree, or of this one from long ago, costs bytes and nothing else.
TEST_P(ReturningCopy, IsRightWithTheWrongRecordOfTheSource) {
  if (!used.fs.missing().empty()) GTEST_SKIP() << used.fs.missing();
  ASSERT_NO_FATAL_FAILURE(part());
  watch = std::move(*TreeWatch::create(used.fs.fd()));
  auto was = parse_scan(record_of_left);
  ASSERT_TRUE(was);
  ASSERT_NO_FATAL_FAILURE(round(&*was));
  same();
  EXPECT_GE(stats.entries, last->entries() - 1);
}

INSTANTIATE_TEST_SUITE_P(, ReturningCopy, ::testing::Values(FileSystem::kBuildDirectory, FileSystem::kTmpfs),
                         [](const auto& p) { return name_of(p.param); });

}  // namespace
}  // namespace transship::storage
