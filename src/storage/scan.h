// What a directory tree looked like when it was read: small enough to keep between two rounds. Immutable once made.
#pragma once
#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/cancel.h"
#include "base/result.h"

namespace transship::storage {

// One name in the tree. About 90 bytes and its name.
struct Node {
  uint64_t inode = 0;
  int64_t ctime_ns = 0;
  int64_t mtime_ns = 0;
  int64_t size = 0;
  uint64_t blocks = 0;  // of 512 bytes
  dev_t rdev = 0;
  uint64_t name_at = 0;  // in Scan's names
  uint32_t parent = 0;
  uint32_t first_child = 0;  // children lie together, sorted by name
  uint32_t child_count = 0;
  mode_t mode = 0;
  uint32_t nlink = 0;
  uint8_t name_length = 0;
  // It may have changed after it was read without another ctime: counts as changed in the next round.
  bool unsettled = false;
};

// Breadth first: node 0 is the root itself. Move-only.
class Scan {
 public:
  Scan() = default;
  Scan(Scan&&) = default;
  Scan& operator=(Scan&&) = default;
  const std::vector<Node>& nodes() const { return nodes_; }
  std::string_view name(uint32_t index) const {
    return std::string_view(names_).substr(nodes_[index].name_at, nodes_[index].name_length);
  }
  // Relative to the root; "." for the root.
  std::string path(uint32_t index) const;
  // What its files take on disk (holes not counted, hard links once), and how many names it has.
  uint64_t disk_bytes() const;
  size_t entries() const { return nodes_.size(); }

 private:
  friend class Scanner;
  friend class ScanParser;
  friend class RoundSender;
  friend class ScanUpdate;
  friend class TreeWatch;
  std::vector<Node> nodes_;
  std::string names_;
  // Of a watched tree only: by node, its FileId (watch/file_id.h), 0 for what must be looked at each time.
  std::vector<uint64_t> ids_;
  uint64_t number_ = 0;  // of this scan; 0 when the tree is not watched
};

// Reads names and attributes, no contents. Stays on the file system of `root_fd`, follows no symbolic link, and cannot
// be led outside by a task that swaps directories meanwhile.
Result<Scan> scan_tree(int root_fd, const Cancel& cancel);

}  // namespace transship::storage
