// For tests: a file system of its own, in a file, mounted where nobody else sees it.
#pragma once
#include <ostream>
#include <string>
#include <vector>

#include "storage/test_tree.h"

namespace transship::storage::testing {

struct DiskKind {
  std::string name;
  std::vector<std::string> mkfs;  // the file's name is added
  std::string options = "loop";   // of mount
};
inline void PrintTo(const DiskKind& kind, std::ostream* out) { *out << kind.name; }

// Unmounted by the destructor; the loop device goes with the mount, and both with the process whatever ends it.
class TestDisk {
 public:
  // Not mounted: why_not() says what is missing.
  explicit TestDisk(const DiskKind& kind);
  ~TestDisk();
  TestDisk(const TestDisk&) = delete;
  TestDisk& operator=(const TestDisk&) = delete;
  const std::string& why_not() const { return why_not_; }
  std::string operator/(const std::string& name) const { return mounted_ / name; }

 private:
  std::string make(const DiskKind& kind);
  TempDir image_;
  TempDir mounted_;
  std::string why_not_;
};

}  // namespace transship::storage::testing
