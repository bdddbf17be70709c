// For tests of written blocks: a file, its copy that is made of what is told, and the disks that they are on.
#pragma once
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "storage/written/test_disk.h"
#include "storage/written/written_blocks.h"

namespace transship::storage::testing {

extern const DiskKind kExt4;
extern const std::vector<DiskKind> kDiskKinds;

// A copy of a file that is made of what take() tells.
class FileCopy {
 public:
  FileCopy(WrittenBlocks& blocks, int fd);
  // How much was told; nothing: everything had to be read.
  std::optional<size_t> update(bool settle);
  // Empty: none.
  std::string difference() const;

 private:
  size_t size() const;
  void read(const Extent& range);
  void read_all();

  WrittenBlocks& blocks_;
  int fd_;
  std::vector<char> bytes_;
  std::vector<Extent> missing_;
};

class WrittenBlocksTest : public ::testing::Test {
 protected:
  // Skips the test where the kernel or the machine lacks something.
  void start(const DiskKind& kind, const WriteEvents::Options& options = {});
  std::string file(const std::string& name = "file") const { return *disk_ / name; }
  static unsigned seed();

  std::unique_ptr<TestDisk> disk_;  // unmounted after all that has files open there
  std::unique_ptr<WrittenBlocks> blocks_;
};

}  // namespace transship::storage::testing
