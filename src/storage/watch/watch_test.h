// For tests of watched trees: one tree, its watch, and the comparison with a walk.
#pragma once
#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "storage/scan.h"
#include "storage/test_tree.h"
#include "storage/watch/test_file_system.h"
#include "storage/watch/tree_watch.h"

namespace transship::storage::testing {

// Empty, or the first node that is different. Not compared: blocks (see tree_watch.h), and what is only known by the
// time it was looked at.
std::string difference(const Scan& walked, const Scan& told);

class WatchedTree {
 public:
  explicit WatchedTree(FileSystem kind) : fs(kind) {}
  // Starts to watch what is there by now.
  void watch(const WatchOptions& options = {});
  // Scans by the watch and compares with a walk; the tree stands still. `why_walked`: what the watch must say.
  void check(const std::string& what, const std::string& why_walked = "");
  std::string operator/(const std::string& name) const { return fs.tree() + "/" + name; }

  TestFileSystem fs;
  std::unique_ptr<TreeWatch> follow;
  std::optional<Scan> last;
  std::unordered_set<uint64_t> look_too;
};

inline std::string name_of(FileSystem kind) {
  constexpr const char* kNames[] = {"BuildDirectory", "Tmpfs", "Xfs", "Btrfs", "BtrfsSubvolume", "Overlay"};
  return kNames[static_cast<int>(kind)];
}

}  // namespace transship::storage::testing
