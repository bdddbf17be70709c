// On real file systems, each with all that changes a file: what is copied of the ranges that are told, and of nothing
// else, is the file.
#include "storage/written/written_blocks.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <set>
#include <utility>

#include "base/fd.h"
#include "storage/written/write_operations.h"
#include "storage/written/written_test.h"

namespace transship::storage {
namespace {

using namespace transship::storage::testing;

constexpr size_t kMiB = 1U << 20;

class OnEachDisk : public WrittenBlocksTest, public ::testing::WithParamInterface<DiskKind> {};
INSTANTIATE_TEST_SUITE_P(Written, OnEachDisk, ::testing::ValuesIn(kDiskKinds),
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
    FileCopy copy(*blocks_, writer.fd());
    EXPECT_EQ(copy.update(true), 0U) << "of a file that nobody has written";
    if (int why = writer.run(name); why != 0) {
      EXPECT_TRUE(may_lack(GetParam().name, name)) << errno_text(why);
      std::cout << GetParam().name << ": no " << name << ": " << errno_text(why) << "\n";
      continue;
    }
    for (int round = 0; round < 3; ++round) {  // the first one, and some after each other
      for (int times = 0; times < round; ++times) ASSERT_EQ(writer.run(name), 0);
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

TEST_P(OnEachDisk, LittleIsToldOfLittle) {
  start(GetParam());
  if (IsSkipped() || HasFailure()) return;
  FileWriter writer(file(), 8 * kMiB, 1);
  FileCopy copy(*blocks_, writer.fd());
  EXPECT_EQ(copy.update(true), 0U);
  EXPECT_EQ(::pwrite(writer.fd(), "x", 1, 5 * kMiB + 12'345), 1);
  auto told = copy.update(true);
  EXPECT_GE(told, WrittenBlocks::kBlock);
  EXPECT_LE(told, 2 * kMiB);
  EXPECT_EQ(copy.update(true), 0U);
  EXPECT_EQ(::pwrite(writer.fd(), "y", 1, 5 * kMiB + 12'345), 1);
  told = copy.update(false);
  EXPECT_GE(told, WrittenBlocks::kBlock);
  EXPECT_LE(told, 2 * kMiB);
  EXPECT_EQ(copy.difference(), "");
}

TEST_F(WrittenBlocksTest, WhatDoesNotFitMakesEverythingUnknownOnce) {
  start(kExt4, {.events = 8});
  if (IsSkipped() || HasFailure()) return;
  FileWriter writer(file(), 16 * kMiB, 1), quiet(file("quiet"), kMiB, 1);
  FileCopy copy(*blocks_, writer.fd()), other(*blocks_, quiet.fd());
  for (int i = 0; i < 12'000; ++i) {
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
  FileCopy first(*blocks_, one.fd()), second(*blocks_, two.fd());
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
  FileCopy copy(*blocks_, one.fd()), other(*blocks_, two.fd());
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
  FileCopy copy(*blocks_, writer.fd());
  struct stat st{};
  ASSERT_EQ(::fstat(writer.fd(), &st), 0);
  blocks_->forget(st.st_dev, st.st_ino);
  auto taken = blocks_->take(writer.fd(), true);
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().code(), Errc::kNotFound);
  EXPECT_EQ(writer.run("pwrite"), 0);
  FileCopy again(*blocks_, writer.fd());
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
