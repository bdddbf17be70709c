// Large files between rounds: patches, what is known of the other side, what was written.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/xattr.h>

#include <filesystem>
#include <map>
#include <random>

#include "base/text.h"
#include "storage/block_hashes.h"
#include "storage/known_files.h"
#include "storage/patch.h"
#include "storage/test_tree.h"

namespace transship::storage {
namespace {

namespace fs = std::filesystem;
using namespace transship::storage::testing;
using ::testing::ElementsAreArray;

constexpr int64_t kMiB = 1 << 20;
constexpr int64_t kPage = 4096;

// A file system of its own: how many blocks ext4 takes depends on where they happen to lie.
void expect_same(const TempDir& from, const TempDir& to) {
  auto lines = [](const TempDir& tree) {
    auto all = describe(tree.path());
    for (auto& line : all)
      if (auto at = line.find(" blocks="); at != std::string::npos) line.erase(at, line.find(' ', at + 1) - at);
    return all;
  };
  ASSERT_THAT(lines(to), ElementsAreArray(lines(from)));
}

std::string random_bytes(size_t size, uint32_t seed) {
  std::mt19937_64 random(seed);
  std::string bytes(size, '\0');
  for (auto& c : bytes) c = static_cast<char>(random() | 1);  // no zeros: they could as well be a hole
  return bytes;
}

// Knows what went through it, as the kernel's tracepoints would.
class Recorder final : public WrittenRanges {
 public:
  Result<> follow(int fd) override {
    ranges_[inode_of(fd)].clear();
    return {};
  }
  Result<std::optional<std::vector<Extent>>> take(int fd, bool /*settle*/) override {
    auto found = ranges_.find(inode_of(fd));
    if (found == ranges_.end()) return std::optional<std::vector<Extent>>();
    ++taken;
    return std::optional(std::exchange(found->second, {}));
  }
  void written(int fd, int64_t offset, int64_t length) {
    if (auto found = ranges_.find(inode_of(fd)); found != ranges_.end()) found->second.push_back({offset, length});
  }
  int taken = 0;

 private:
  static uint64_t inode_of(int fd) {
    struct stat st = {};
    TS_CHECK(::fstat(fd, &st) == 0);
    return st.st_ino;
  }
  std::map<uint64_t, std::vector<Extent>> ranges_;
};

void write_at(const std::string& path, int64_t offset, std::string_view bytes, Recorder* recorder = nullptr) {
  auto fd = open_file(path, O_WRONLY | O_CREAT, 0644);
  ASSERT_TRUE(fd) << fd.error().message();
  ASSERT_EQ(::pwrite(fd->get(), bytes.data(), bytes.size(), offset), static_cast<ssize_t>(bytes.size()));
  if (recorder != nullptr) recorder->written(fd->get(), offset, static_cast<int64_t>(bytes.size()));
}

void punch(const std::string& path, int64_t offset, int64_t length) {
  auto fd = open_file(path, O_WRONLY);
  ASSERT_TRUE(fd);
  ASSERT_EQ(::fallocate(fd->get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length), 0) << errno_text(errno);
}

uint64_t inode_of(const std::string& path) {
  struct stat st = {};
  TS_CHECK(::lstat(path.c_str(), &st) == 0);
  return st.st_ino;
}

struct Patches : ::testing::Test {
  void round(bool still = false) {
    RoundOptions options;
    options.known = &known;
    options.written = written;
    options.must_be_still = still;
    auto next = move_round(from, to, scan ? &*scan : nullptr, options, &stats);
    ASSERT_TRUE(next) << next.error().message();
    scan = std::move(*next);
  }
  TempDir from, to;
  KnownFiles known;
  WrittenRanges* written = nullptr;
  std::optional<Scan> scan;
  RoundStats stats;
};

TEST_F(Patches, AChangedPageOfALargeFileSendsOneBlock) {
  write_at(from / "big", 0, random_bytes(64 * kMiB, 1));
  round();
  EXPECT_EQ(stats.data_bytes, 64U << 20);
  EXPECT_EQ(stats.patched, 0U);
  EXPECT_EQ(known.files(), 1U);
  EXPECT_LT(known.bytes(), 17'000U);
  auto inode = inode_of(to / "big");
  write_at(from / "big", 40 * kMiB + kPage, random_bytes(kPage, 2));
  round();
  EXPECT_EQ(stats.data_bytes, 64U << 10);
  EXPECT_EQ(stats.read_bytes, 64U << 20) << "nobody says what was written";
  EXPECT_EQ(stats.patched, 1U);
  EXPECT_EQ(inode_of(to / "big"), inode) << "patched where it is";
  expect_same(from, to);
}

TEST_F(Patches, OnlyWhatWasWrittenIsRead) {
  Recorder recorder;
  written = &recorder;
  write_at(from / "big", 0, random_bytes(16 * kMiB, 1));
  round();
  settle();
  write_at(from / "big", 3 * kMiB + 5, "changed", &recorder);
  round();
  EXPECT_EQ(recorder.taken, 1);
  EXPECT_EQ(stats.read_bytes, 64U << 10);
  EXPECT_EQ(stats.data_bytes, 64U << 10);
  expect_same(from, to);
}

TEST_F(Patches, ATouchedFileSendsItsAttributesOnly) {
  write_at(from / "big", 0, random_bytes(4 * kMiB, 1));
  settle();
  round();
  ASSERT_EQ(::chmod((from / "big").c_str(), 0601), 0);
  ASSERT_EQ(::setxattr((from / "big").c_str(), "user.note", "x", 1, 0), 0);
  round(true);
  EXPECT_EQ(stats.data_bytes, 0U);
  EXPECT_EQ(stats.entries, 1U);
  EXPECT_EQ(stats.patched, 1U);
  expect_same(from, to);
}

TEST_F(Patches, ManyChangesAreSeveralEntriesOfOneFile) {
  write_at(from / "big", 0, random_bytes(24 * kMiB, 1));
  round();
  write_at(from / "big", 0, random_bytes(12 * kMiB, 2));
  ASSERT_EQ(::truncate((from / "big").c_str(), 23 * kMiB + 17), 0);
  round();
  EXPECT_GT(stats.entries, 2U);
  expect_same(from, to);
  // Over a thousand holes.
  auto fd = open_file(from / "holes", O_WRONLY | O_CREAT, 0644);
  ASSERT_TRUE(fd);
  write_at(from / "holes", 0, random_bytes(12 * kMiB, 3));
  round();
  for (int64_t at = 0; at < 12 * kMiB; at += 2 * kPage)
    ASSERT_EQ(::fallocate(fd->get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, kPage), 0);
  round();
  expect_same(from, to);
}

TEST_F(Patches, HolesAreMadeAndFilledAndBlocksOfZerosAreNeither) {
  write_at(from / "big", 0, random_bytes(8 * kMiB, 1));
  round();
  punch(from / "big", kMiB, kMiB);
  punch(from / "big", 4 * kMiB + kPage, kPage);
  round();
  EXPECT_EQ(stats.data_bytes, (64U << 10) - kPage);
  expect_same(from, to);
  write_at(from / "big", kMiB + 100'000, "filled");
  write_at(from / "big", 20 * kMiB, "sparse now");
  round();
  EXPECT_LT(stats.data_bytes, 200'000U);
  expect_same(from, to);
}

TEST_F(Patches, AFileReplacedByAnotherIsComparedWithWhatWasThere) {
  Recorder recorder;
  written = &recorder;
  auto bytes = random_bytes(8 * kMiB, 1);
  write_at(from / "big", 0, bytes);
  round();
  bytes[5 * kMiB] ^= 2;
  write_at(from / "new", 0, bytes);
  fs::rename(from / "new", from / "big");
  round();
  EXPECT_EQ(recorder.taken, 0) << "nobody followed the new one";
  EXPECT_EQ(stats.data_bytes, 64U << 10);
  expect_same(from, to);
}

// The link that is left behind must not change with the file that took the other name.
TEST_F(Patches, ANameThatLeavesItsLinksIsSentApart) {
  write_at(from / "a", 0, random_bytes(2 * kMiB, 1));
  ASSERT_EQ(::link((from / "a").c_str(), (from / "b").c_str()), 0);
  round();
  expect_same(from, to);
  fs::copy_file(from / "a", from / "c");
  fs::rename(from / "c", from / "a");
  write_at(from / "a", kMiB, "only in a");
  round();
  expect_same(from, to);
}

TEST_F(Patches, AFurtherLinkSendsNoData) {
  write_at(from / "m", 0, random_bytes(2 * kMiB, 1));
  round();
  settle();
  ASSERT_EQ(::link((from / "m").c_str(), (from / "a").c_str()), 0);
  fs::create_directory(from / "z");
  ASSERT_EQ(::link((from / "m").c_str(), (from / "z/last").c_str()), 0);
  round();
  EXPECT_EQ(stats.data_bytes, 0U);
  expect_same(from, to);
}

TEST_F(Patches, WhatHasNoRoomIsSentWhole) {
  known = KnownFiles(2 * 16 * 16 + 200);
  write_at(from / "big", 0, random_bytes(kMiB, 1));
  write_at(from / "too-much", 0, random_bytes(16 * kMiB, 1));
  round();
  EXPECT_TRUE(known.has("big"));
  EXPECT_FALSE(known.has("too-much"));
  write_at(from / "too-much", 0, "x");
  round();
  EXPECT_EQ(stats.data_bytes, 16U << 20);
  expect_same(from, to);
}

TEST_F(Patches, ARoundThatFailedLeavesNothingKnown) {
  struct Broken final : Writer {
    Result<> write(std::span<const std::byte>) override { return fail(Errc::kUnavailable, "broken"); }
  } out;
  write_at(from / "big", 0, random_bytes(kMiB, 1));
  round();
  ASSERT_EQ(known.files(), 1U);
  RoundOptions options;
  options.known = &known;
  ASSERT_FALSE(send_round(from.fd(), out, nullptr, options, never()));
  EXPECT_EQ(known.files(), 0U);
}

// An earlier copy that is there already; the sender learns of it by its hashes.
TEST_F(Patches, WhatTheDestinationHasAlreadyIsNotSentAgain) {
  auto bytes = random_bytes(8 * kMiB, 1);
  write_at(from / "big", 0, bytes);
  write_at(to / "big", 0, bytes);
  write_at(to / "big", 2 * kMiB, "is different there");
  ASSERT_EQ(::truncate((to / "big").c_str(), 7 * kMiB + 3), 0);
  auto hashes = hash_file(to.fd(), "big", 1 << 20, never());
  ASSERT_TRUE(hashes) << hashes.error().message();
  ASSERT_TRUE(known.put("big", {*hashes}));
  round();
  EXPECT_LE(stats.data_bytes, static_cast<uint64_t>(kMiB + 2 * kHashBlock));
  expect_same(from, to);
}

TEST_F(Patches, HashesOfTheReceiverAreThoseOfTheSender) {
  write_at(from / "big", 0, random_bytes(3 * kMiB + 17, 1));
  punch(from / "big", kMiB + kPage, kMiB);
  round();
  auto there = hash_file(to.fd(), "big", 1 << 20, never());
  ASSERT_TRUE(there);
  EXPECT_EQ(*there, *known.find("big"));
}

TEST_F(Patches, OnlyPlainFilesBelowTheRootAreHashed) {
  fs::create_directory(to / "d");
  fs::create_symlink("/etc", to / "way-out");
  fs::create_symlink("/etc/passwd", to / "link");
  ASSERT_EQ(::mkfifo((to / "fifo").c_str(), 0600), 0);
  write_text(to / "one", "x");
  ASSERT_EQ(::link((to / "one").c_str(), (to / "two").c_str()), 0);
  for (const char* path : {"d", "way-out/passwd", "link", "fifo", "one", "none", "../x", "/etc/passwd", ".", ""}) {
    auto r = hash_file(to.fd(), path, 1 << 20, never());
    ASSERT_FALSE(r) << path;
    EXPECT_EQ(r.error().code(), Errc::kNotFound) << r.error().message();
  }
  write_text(to / "large", "");
  fs::resize_file(to / "large", 8ULL << 30);
  auto r = hash_file(to.fd(), "large", 1 << 20, never());
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kNoSpace);
}

TEST(KnownFilesRecord, ComesBackAsItWas) {
  KnownFiles known;
  FileHashes hashes{10 * kHashBlock - 1, std::vector<BlockHash>(10)};
  hashes.blocks[0] = {1, 2};
  hashes.blocks[1] = {3, 4};
  hashes.blocks[9] = {5, 6};
  ASSERT_TRUE(known.put("dir/file", {hashes}));
  ASSERT_TRUE(known.put("empty", {{}}));
  EXPECT_FALSE(known.put("unequal", {{5 * kHashBlock, {}}}));
  auto text = known.serialize();
  auto again = KnownFiles::parse(text);
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ(again->files(), 2U);
  EXPECT_EQ(again->bytes(), known.bytes());
  ASSERT_NE(again->find("dir/file"), nullptr);
  EXPECT_EQ(*again->find("dir/file"), hashes);
  for (size_t i = 0; i < text.size(); ++i) {
    auto bad = text;
    bad[i] ^= 1;
    EXPECT_FALSE(KnownFiles::parse(bad));
    EXPECT_FALSE(KnownFiles::parse(text.substr(0, i)));
  }
  auto full = KnownFiles::parse(text, 400);
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code(), Errc::kNoSpace);
  again->forget_tree("dir");
  EXPECT_EQ(again->files(), 1U);
}

TEST(KnownFilesRecord, OneNameFollowsAFile) {
  KnownFiles known;
  ASSERT_TRUE(known.put("a", {{}, FileIdentity{7, 1}}));
  ASSERT_TRUE(known.put("b", {{}, FileIdentity{7, 1}}));
  EXPECT_FALSE(known.take("a")->followed);
  EXPECT_TRUE(known.take("b")->followed);
}

TEST(PatchText, SaysWhatWasMeant) {
  Patch patch{10, 100, {{0, 5, false}, {5, 6, true}, {99, 1, false}}};
  auto again = parse_patch(to_text(patch));
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ(again->ranges, patch.ranges);
  EXPECT_EQ(again->base_size, 10);
  EXPECT_EQ(again->size, 100);
  EXPECT_EQ(again->data_length(), 6);
  for (const char* bad : {"",
                          "1",
                          "1 ",
                          "-1 5",
                          "1 -5",
                          "1 5 ",
                          "1 5 0:3",
                          "1 5 +0",
                          "1 5 +0:",
                          "1 5 +-1:3",
                          "1 5 +0:-3",
                          "1 5 +0:6",
                          "1 5 +5:1",
                          "1 5 +0:0",
                          "1 5 +0:2 +1:1",
                          "1 5 +3:1 -0:1",
                          "1 5  +0:1",
                          "1 9223372036854775808",
                          "1 5 +9223372036854775807:1",
                          "1 9223372036854775807 +1:9223372036854775807"})
    EXPECT_FALSE(parse_patch(bad)) << bad;
}

// ---- whatever happens to large files

// Zeros that are written where a hole was are no difference to us, but one to expect_same().
void copy_with_holes(const std::string& from, const std::string& to) {
  auto in = open_file(from, O_RDONLY);
  ASSERT_TRUE(in);
  auto size = static_cast<int64_t>(fs::file_size(from));
  auto extents = data_extents(in->get(), size);
  ASSERT_TRUE(extents);
  for (const auto& x : *extents) {
    std::string bytes(static_cast<size_t>(x.length), '\0');
    ASSERT_EQ(::pread(in->get(), bytes.data(), bytes.size(), x.offset), x.length);
    write_at(to, x.offset, bytes);
  }
  write_at(to, 0, "");
  fs::resize_file(to, static_cast<uintmax_t>(size));
}

class Churn {
 public:
  Churn(std::string root, Recorder* recorder, uint32_t seed)
      : root_(std::move(root)), recorder_(recorder), random_(seed) {}

  void step() {
    auto name = pick();
    switch (random_() % 13) {
      case 0: return write(name, static_cast<int64_t>(random_() % (3 * kMiB)), 1 + random_() % 200'000);
      case 1: return write(name, size(name), 1 + random_() % 100'000);  // append
      case 2: return truncate(name, static_cast<int64_t>(random_() % (4 * kMiB)));
      case 3: {
        auto was = size(name);
        truncate(name, static_cast<int64_t>(random_() % static_cast<uint64_t>(was + 1)));
        return truncate(name, was);
      }
      case 4: return hole(name);
      case 5: return replace(name);
      case 6: return swap(name, pick());
      case 7: return add_link(name);
      case 8: return remove(name);
      case 9: (void)::chmod(path(name).c_str(), 0600 | (random_() & 077)); return;
      case 10: (void)::lsetxattr(path(name).c_str(), "user.x", &name[0], 1 + random_() % name.size(), 0); return;
      case 11: return become_directory(name);
      default: (void)::rename(path(name).c_str(), path(pick()).c_str()); return;
    }
  }

 private:
  std::string pick() { return std::string("file-") + static_cast<char>('a' + random_() % 7); }
  std::string path(const std::string& name) const { return root_ + "/" + name; }
  bool is_file(const std::string& name) const { return fs::is_regular_file(fs::symlink_status(path(name))); }
  int64_t size(const std::string& name) const {
    return is_file(name) ? static_cast<int64_t>(fs::file_size(path(name))) : 0;
  }

  void write(const std::string& name, int64_t at, size_t length) {
    if (fs::is_directory(path(name))) fs::remove_all(path(name));
    write_at(path(name), at, random_bytes(length, static_cast<uint32_t>(random_())), recorder_);
  }
  // The kernel zeroes what is left of a page, which is a write like any other; of whole pages nothing is said.
  void edge(const std::string& name, int64_t at) {
    auto fd = open_file(path(name), O_RDONLY);
    ASSERT_TRUE(fd);
    if (recorder_ != nullptr) recorder_->written(fd->get(), at / kPage * kPage, kPage);
  }
  void truncate(const std::string& name, int64_t to) {
    if (!is_file(name)) return;
    edge(name, to);
    edge(name, size(name));
    ASSERT_EQ(::truncate(path(name).c_str(), to), 0);
  }
  void hole(const std::string& name) {
    if (size(name) == 0) return;
    auto at = static_cast<int64_t>(random_() % static_cast<uint64_t>(size(name)));
    auto length = 1 + static_cast<int64_t>(random_() % 400'000);
    edge(name, at);
    edge(name, at + length);
    punch(path(name), at, length);
  }
  void replace(const std::string& name) {
    if (!is_file(name)) return;
    copy_with_holes(path(name), path("new"));
    write_at(path("new"), static_cast<int64_t>(random_() % kMiB), "replaced");
    fs::rename(path("new"), path(name));
  }
  void swap(const std::string& a, const std::string& b) {
    if (a != b) (void)::renameat2(AT_FDCWD, path(a).c_str(), AT_FDCWD, path(b).c_str(), RENAME_EXCHANGE);
  }
  void add_link(const std::string& name) {
    auto other = pick();
    if (!is_file(name) || other == name) return;
    fs::remove_all(path(other));
    ASSERT_EQ(::link(path(name).c_str(), path(other).c_str()), 0);
  }
  void remove(const std::string& name) { fs::remove_all(path(name)); }
  void become_directory(const std::string& name) {
    fs::remove_all(path(name));
    fs::create_directory(path(name));
    write_at(path(name) + "/inside", 0, random_bytes(kMiB + 5, static_cast<uint32_t>(random_())), recorder_);
  }

  std::string root_;
  Recorder* recorder_;
  std::mt19937 random_;
};

// Adds to `patched` how many files were: those that are sent again because they were not settled count, so it differs.
void churn(uint32_t seed, int rounds, bool record, uint64_t& patched) {
  SCOPED_TRACE(fmt::format("seed {}, with a recorder: {}", seed, record));
  TempDir from, to;
  Recorder recorder;
  Churn world(from.path(), record ? &recorder : nullptr, seed);
  KnownFiles known;
  std::optional<Scan> scan;
  for (int i = 0; i < rounds && !::testing::Test::HasFatalFailure(); ++i) {
    SCOPED_TRACE(fmt::format("round {}", i));
    for (uint32_t n = 1 + (seed + static_cast<uint32_t>(i)) % 6; n > 0; --n) world.step();
    RoundStats stats;
    RoundOptions options{.must_be_still = true, .known = &known, .written = record ? &recorder : nullptr};
    auto next = move_round(from, to, scan ? &*scan : nullptr, options, &stats);
    ASSERT_TRUE(next) << next.error().message();
    patched += stats.patched;
    scan = std::move(*next);
    expect_same(from, to);
    // What is on the disk is what is kept in memory.
    auto kept = KnownFiles::parse(known.serialize());
    ASSERT_TRUE(kept) << kept.error().message();
    if (i % 10 == 9) known = std::move(*kept);
  }
}

TEST(PatchesProperty, TheTreeIsTheSameAfterEveryRound) {
  uint64_t patched = 0;
  for (uint32_t seed = 1; seed <= 4; ++seed) churn(seed, 25, false, patched);
  EXPECT_GT(patched, 12U);
}

TEST(PatchesProperty, TheTreeIsTheSameWhenOnlyWhatWasWrittenIsRead) {
  uint64_t patched = 0;
  for (uint32_t seed = 11; seed <= 14; ++seed) churn(seed, 25, true, patched);
  EXPECT_GT(patched, 12U);
}

}  // namespace
}  // namespace transship::storage
