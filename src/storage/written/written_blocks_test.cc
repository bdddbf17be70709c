// On real file systems, each with all that changes a file: what is copied of the ranges that are told, and of nothing
// else, is the file.
#include "storage/written/written_blocks.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iostream>
#include <random>
#include <set>
#include <utility>

#include "base/fd.h"
#include "base/thread.h"
#include "storage/written/test_disk.h"
#include "storage/written/write_operations.h"

namespace transship::storage {
namespace {

using testing::DiskKind;
using testing::FileWriter;
using testing::TestDisk;

constexpr size_t kMiB = 1U << 20;

const DiskKind kExt4{.name = "ext4", .mkfs = {"mkfs.ext4", "-q", "-b", "4096"}};
const std::vector<DiskKind> kKinds = {
    {.name = "ext2", .mkfs = {"mkfs.ext2", "-q"}},
    kExt4,
    {.name = "ext4_small_blocks", .mkfs = {"mkfs.ext4", "-q", "-b", "1024"}},
    {.name = "xfs", .mkfs = {"mkfs.xfs", "-q"}},
    {.name = "xfs_small_blocks", .mkfs = {"mkfs.xfs", "-q", "-b", "size=1024", "-i", "exchange=1"}},
    {.name = "btrfs", .mkfs = {"mkfs.btrfs", "-q"}},
    {.name = "btrfs_compressed", .mkfs = {"mkfs.btrfs", "-q"}, .options = "loop,compress-force=zstd"},
    {.name = "btrfs_in_place", .mkfs = {"mkfs.btrfs", "-q"}, .options = "loop,nodatacow"},
};

// A copy of a file that is made of what take() tells.
class Copy {
 public:
  Copy(WrittenBlocks& blocks, int fd) : blocks_(blocks), fd_(fd) {
    auto followed = blocks.follow(fd);
    EXPECT_TRUE(followed) << followed.error().message();
    read_all();
  }
  // How much was told; nothing: everything had to be read.
  std::optional<size_t> update(bool settle) {
    auto taken = blocks_.take(fd_, settle);
    EXPECT_TRUE(taken) << taken.error().message();
    if (!taken) return std::nullopt;
    if (!*taken) return read_all(), std::nullopt;
    bytes_.resize(size());
    for (const auto& range : std::exchange(missing_, {})) read(range);
    size_t sum = 0;
    for (const auto& range : **taken) {
      sum += static_cast<size_t>(range.length);
      read(range);
    }
    return sum;
  }
  // Empty: none.
  std::string difference() const {
    std::vector<char> real(size());
    if (::pread(fd_, real.data(), real.size(), 0) != static_cast<ssize_t>(real.size())) return "cannot be read";
    if (real.size() != bytes_.size()) return fmt::format("{} bytes, copied {}", real.size(), bytes_.size());
    auto [at, copied] = std::ranges::mismatch(real, bytes_);
    if (at == real.end()) return "";
    return fmt::format("at {:#x}: {:#x}, copied {:#x}", at - real.begin(), *at & 0xff, *copied & 0xff);
  }

 private:
  size_t size() const {
    struct stat st{};
    return ::fstat(fd_, &st) == 0 ? static_cast<size_t>(st.st_size) : 0;
  }
  // What is not there is zeros until the next time.
  void read(const Extent& range) {
    auto from = static_cast<size_t>(range.offset), end = from + static_cast<size_t>(range.length);
    size_t at = from, last = std::min(end, bytes_.size());
    for (; at < last;) {
      auto n = ::pread(fd_, bytes_.data() + at, last - at, static_cast<off_t>(at));
      if (n <= 0) break;
      at += static_cast<size_t>(n);
    }
    if (at < last) std::fill(bytes_.begin() + static_cast<ssize_t>(at), bytes_.begin() + static_cast<ssize_t>(last), 0);
    if (at < end) missing_.push_back({.offset = static_cast<int64_t>(at), .length = static_cast<int64_t>(end - at)});
  }
  void read_all() {
    missing_.clear();
    bytes_.resize(size());
    read({.offset = 0, .length = static_cast<int64_t>(bytes_.size())});
  }
  WrittenBlocks& blocks_;
  int fd_;
  std::vector<char> bytes_;
  std::vector<Extent> missing_;
};

class WrittenBlocksTest : public ::testing::Test {
 protected:
  void start(const DiskKind& kind, const WriteEvents::Options& options = {}) {
    auto made = WrittenBlocks::create(options);
    // What the kernel does not let us do, as against what it does not let our programs do.
    auto refused = made ? 0 : made.error().sys_errno();
    if (refused == 0 || refused == EPERM || refused == ENOSYS) {
      if (!made) GTEST_SKIP() << made.error().message();
    }
    ASSERT_TRUE(made) << made.error().message();
    blocks_ = std::move(*made);
    disk_ = std::make_unique<TestDisk>(kind);
    if (!disk_->why_not().empty()) GTEST_SKIP() << disk_->why_not();
  }
  std::string file(const std::string& name = "file") const { return *disk_ / name; }
  static unsigned seed() {
    const char* given = std::getenv("TRANSSHIP_TEST_SEED");
    auto seed = given != nullptr ? static_cast<unsigned>(std::strtoul(given, nullptr, 10)) : std::random_device{}();
    std::cout << "TRANSSHIP_TEST_SEED=" << seed << "\n";
    return seed;
  }
  std::unique_ptr<TestDisk> disk_;  // unmounted after all that has files open there
  std::unique_ptr<WrittenBlocks> blocks_;
};

class OnEachDisk : public WrittenBlocksTest, public ::testing::WithParamInterface<DiskKind> {
 protected:
  static constexpr int kTakes = 10;  // in each round
  int race(bool second_writer);
};
INSTANTIATE_TEST_SUITE_P(Written, OnEachDisk, ::testing::ValuesIn(kKinds),
                         [](const auto& kind) { return kind.param.name; });

// What a file system may lack.
bool may_lack(const std::string& disk, const std::string& operation) {
  static const std::set<std::string> everywhere = {"exchange", "uring"};
  static const std::set<std::string> old = {"clone", "zero", "zero_aligned", "allocate", "collapse", "insert"};
  static const std::set<std::string> btrfs = {"collapse", "insert"};
  if (everywhere.contains(operation)) return true;
  if (disk.starts_with("ext2")) return old.contains(operation);
  if (disk.starts_with("ext4")) return operation == "clone";
  return disk.starts_with("btrfs") && btrfs.contains(operation);
}

TEST_P(OnEachDisk, EachOperationIsTold) {
  start(GetParam());
  if (IsSkipped() || HasFailure()) return;
  auto names = FileWriter::keeping_size();
  std::ranges::copy(FileWriter::changing_size(), std::back_inserter(names));
  auto random = seed();
  for (const auto& name : names) {
    SCOPED_TRACE(name);
    FileWriter writer(file(name), 2 * kMiB, ++random);
    ASSERT_TRUE(blocks_->serves(writer.fd()));
    Copy copy(*blocks_, writer.fd());
    EXPECT_EQ(copy.update(true), 0U) << "of a file that nobody has written";
    if (int why = writer.run(name); why != 0) {
      EXPECT_TRUE(may_lack(GetParam().name, name)) << errno_text(why);
      std::cout << GetParam().name << ": no " << name << ": " << errno_text(why) << "\n";
      continue;
    }
    for (int round = 0; round < 6; ++round) {  // first and repeated ones, before and after settling
      for (int times = 0; times < round % 3; ++times) ASSERT_EQ(writer.run(name), 0);
      EXPECT_TRUE(copy.update(true)) << "not known in round " << round;
      EXPECT_EQ(copy.difference(), "") << "round " << round;
    }
    ASSERT_EQ(writer.run(name), 0);
    EXPECT_TRUE(copy.update(false));
    EXPECT_EQ(copy.difference(), "") << "last round";
    ASSERT_EQ(writer.run(name), 0);
    EXPECT_FALSE(copy.update(true)) << "the last round was not the last: pages are dirty and fire no events";
    EXPECT_EQ(copy.difference(), "");
    struct stat st{};
    ASSERT_EQ(::fstat(writer.fd(), &st), 0);
    blocks_->forget(st.st_dev, st.st_ino);
  }
}

// A writer does all that while the copy is brought up to date, a second one overwrites if it shall; then they stop.
// The result says how often everything had to be read.
int OnEachDisk::race(bool second_writer) {
  std::mt19937 generator(seed());
  auto random = [&generator] { return static_cast<unsigned>(generator()); };
  const char* more = std::getenv("TRANSSHIP_TEST_ROUNDS");
  int rounds = more != nullptr ? std::atoi(more) : 3;
  auto everything = FileWriter::keeping_size();
  std::ranges::copy(FileWriter::changing_size(), std::back_inserter(everything));
  const std::vector<std::string> overwriting = {"write", "pwrite", "direct", "writev", "uring", "splice"};
  FileWriter first(file(), 4 * kMiB, random());
  FileWriter second(first, random());
  Copy copy(*blocks_, first.fd());
  int unknown = 0;
  for (int round = 0; round < rounds && !HasFailure(); ++round) {
    std::atomic<bool> stop = false;
    auto work = [&stop](FileWriter& writer, const std::vector<std::string>& names, unsigned from) {
      std::mt19937 choice(from);
      while (!stop) (void)writer.run(names[choice() % names.size()]);
    };
    unsigned one = random(), other = random();
    {
      Thread a("writer-1", [&] { work(first, everything, one); });
      Thread b = second_writer ? Thread("writer-2", [&] { work(second, overwriting, other); }) : Thread();
      for (int take = 0; take < kTakes; ++take) {
        if (!copy.update(true)) ++unknown;
        ::usleep(random() % 20'000);
      }
      stop = true;
    }
    bool last = round + 1 == rounds;
    if (!copy.update(!last)) ++unknown;
    EXPECT_EQ(copy.difference(), "") << "round " << round;
  }
  return unknown;
}

TEST_P(OnEachDisk, NothingIsMissedWhileItIsWritten) {
  start(GetParam());
  if (IsSkipped() || HasFailure()) return;
  EXPECT_EQ(race(false), 0);
}

// Direct writes and pages in memory collide here, which the kernel tells as an I/O error: then nothing is known.
TEST_P(OnEachDisk, NothingIsMissedWhileTwoWriteIt) {
  start(GetParam());
  if (IsSkipped() || HasFailure()) return;
  std::cout << "not known: " << race(true) << " times\n";
}

TEST_P(OnEachDisk, LittleIsToldOfLittle) {
  start(GetParam());
  if (IsSkipped() || HasFailure()) return;
  FileWriter writer(file(), 32 * kMiB, 1);
  Copy copy(*blocks_, writer.fd());
  EXPECT_EQ(copy.update(true), 0U);
  EXPECT_EQ(::pwrite(writer.fd(), "x", 1, 13 * kMiB + 12'345), 1);
  auto told = copy.update(true);
  EXPECT_GE(told, WrittenBlocks::kBlock);
  EXPECT_LE(told, 2 * kMiB);
  EXPECT_EQ(copy.update(true), 0U);
  EXPECT_EQ(::pwrite(writer.fd(), "y", 1, 13 * kMiB + 12'345), 1);
  told = copy.update(false);
  EXPECT_GE(told, WrittenBlocks::kBlock);
  EXPECT_LE(told, 2 * kMiB);
  EXPECT_EQ(copy.difference(), "");
}

TEST_F(WrittenBlocksTest, WhatDoesNotFitMakesEverythingUnknownOnce) {
  start(kExt4, {.events = 8});
  if (IsSkipped() || HasFailure()) return;
  FileWriter writer(file(), 16 * kMiB, 1), quiet(file("quiet"), kMiB, 1);
  Copy copy(*blocks_, writer.fd()), other(*blocks_, quiet.fd());
  for (int i = 0; i < 100'000; ++i) {
    int cleaned = i % 4000 == 0 ? ::fdatasync(writer.fd()) : 0;  // each page is clean again
    ASSERT_EQ(cleaned, 0);
    ASSERT_EQ(::pwrite(writer.fd(), "abc", 3, i % 4000 * 4096), 3);
  }
  EXPECT_FALSE(copy.update(true));
  EXPECT_FALSE(other.update(true)) << "nobody knows whose events were lost";
  EXPECT_EQ(copy.difference(), "");
  EXPECT_EQ(copy.update(true), 0U);
  EXPECT_EQ(::pwrite(writer.fd(), "xyz", 3, 5'000'000), 3);
  EXPECT_TRUE(copy.update(true));
  EXPECT_EQ(other.update(true), 0U);
  EXPECT_EQ(copy.difference(), "");
}

TEST_F(WrittenBlocksTest, EachFileHasItsOwn) {
  start(kExt4);
  if (IsSkipped() || HasFailure()) return;
  FileWriter one(file("one"), 2 * kMiB, 1), two(file("two"), 2 * kMiB, 2);
  Copy first(*blocks_, one.fd()), second(*blocks_, two.fd());
  EXPECT_EQ(one.run("pwrite"), 0);
  EXPECT_EQ(second.update(true), 0U);  // takes the events of the other too, and keeps them
  EXPECT_GT(first.update(true), 0U);
  EXPECT_EQ(first.difference(), "");
  EXPECT_EQ(two.run("store"), 0);
  EXPECT_EQ(first.update(true), 0U);
  EXPECT_EQ(blocks_->follow(two.fd()).has_value(), true);  // once more: nothing is forgotten
  EXPECT_GT(second.update(true), 0U);
  EXPECT_EQ(second.difference(), "");
}

// Two disks have files of the same number: the events of one are told for both.
TEST_F(WrittenBlocksTest, TheSameInodeOfAnotherDiskMakesOnlyMoreOfIt) {
  start(kExt4);
  if (IsSkipped() || HasFailure()) return;
  TestDisk twin(kExt4);
  ASSERT_EQ(twin.why_not(), "");
  FileWriter one(file(), 2 * kMiB, 1), two(twin / "file", 2 * kMiB, 2);
  struct stat first{}, second{};
  ASSERT_TRUE(::fstat(one.fd(), &first) == 0 && ::fstat(two.fd(), &second) == 0);
  ASSERT_EQ(first.st_ino, second.st_ino);
  Copy copy(*blocks_, one.fd()), other(*blocks_, two.fd());
  EXPECT_EQ(one.run("pwrite"), 0);
  EXPECT_GT(other.update(true), 0U);
  EXPECT_GT(copy.update(true), 0U);
  blocks_->forget(second.st_dev, second.st_ino);
  EXPECT_EQ(one.run("pwrite"), 0);
  EXPECT_GT(copy.update(true), 0U);
  EXPECT_EQ(copy.difference(), "");
}

TEST_F(WrittenBlocksTest, WhatIsForgottenIsNotToldAnyMore) {
  start(kExt4);
  if (IsSkipped() || HasFailure()) return;
  FileWriter writer(file(), 2 * kMiB, 1);
  Copy copy(*blocks_, writer.fd());
  struct stat st{};
  ASSERT_EQ(::fstat(writer.fd(), &st), 0);
  blocks_->forget(st.st_dev, st.st_ino);
  auto taken = blocks_->take(writer.fd(), true);
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().code(), Errc::kNotFound);
  EXPECT_EQ(writer.run("pwrite"), 0);
  Copy again(*blocks_, writer.fd());
  EXPECT_EQ(again.update(true), 0U);
}

TEST_F(WrittenBlocksTest, OtherFilesAreNotServed) {
  start({.name = "ext4", .mkfs = {"mkfs.ext4", "-q"}, .options = "loop,data=journal"});
  if (IsSkipped() || HasFailure()) return;
  Fd memory(::memfd_create("file", MFD_CLOEXEC));
  EXPECT_FALSE(blocks_->serves(memory.get()));
  auto directory = open_file(*disk_ / "", O_RDONLY | O_DIRECTORY);
  ASSERT_TRUE(directory);
  EXPECT_FALSE(blocks_->serves(directory->get()));
  FileWriter journaled(file(), kMiB, 1);
  EXPECT_FALSE(blocks_->serves(journaled.fd()));
}

TEST(WrittenBlocksWithout, SaysWhatIsMissingAndWhatIsDoneInstead) {
  auto made = WrittenBlocks::create({.kernel_types = "/nonexistent/vmlinux"});
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code(), Errc::kKernelFeatureMissing);
  EXPECT_NE(made.error().message().find("cannot follow which blocks of files are written"), std::string::npos);
  if (::geteuid() == 0) {
    EXPECT_NE(made.error().message().find("/nonexistent/vmlinux"), std::string::npos) << made.error().message();
  }
  EXPECT_NE(made.error().remedy().find("read whole"), std::string::npos);
}

}  // namespace
}  // namespace transship::storage
