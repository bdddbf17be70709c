// For tests: a directory on a file system of a kind, made for the test and gone with it.
#pragma once
#include <memory>
#include <string>

#include "base/fd.h"

namespace transship::storage::testing {

enum class FileSystem { kBuildDirectory, kTmpfs, kXfs, kBtrfs, kBtrfsSubvolume, kOverlay };

class TestFileSystem {
 public:
  // A test that gets one with a reason in missing() is skipped.
  explicit TestFileSystem(FileSystem kind);
  ~TestFileSystem();
  TestFileSystem(const TestFileSystem&) = delete;
  TestFileSystem& operator=(const TestFileSystem&) = delete;
  const std::string& missing() const { return missing_; }
  // The tree, and a directory beside it on the same file system.
  std::string tree() const { return mounted_ + "/tree"; }
  std::string outside() const { return mounted_ + "/outside"; }
  int fd() const { return fd_.get(); }

 private:
  void prepare(FileSystem kind);
  void into_a_subvolume();
  void mount_image(const std::string& make, const std::string& size);

  std::string base_;     // holds the image and the mount point
  std::string mounted_;  // the root of the file system, or `base_`
  bool is_mounted_ = false;
  std::string missing_;
  Fd fd_;
};

}  // namespace transship::storage::testing
