// A new scan of a tree made from the one before, where only what changed is looked at.
#pragma once
#include <functional>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "base/cancel.h"
#include "base/result.h"
#include "storage/scan.h"
#include "storage/watch/file_id.h"

namespace transship::storage {

// What may be different from a scan.
struct TreeChanges {
  // Of a directory: names that came, went or stand for something else. Nothing in it: any name.
  std::unordered_map<FileId, std::set<std::string, std::less<>>> names;
  FileIdSet files;                      // contents or attributes
  std::unordered_set<uint64_t> inodes;  // the same, by inode
};

// Called with what is about to be looked at: what happens to it from this call on must be in the next changes.
using Follow = std::function<void(std::span<const FileId>)>;

struct LookedAt {
  uint64_t names = 0;  // whose attributes were read
  // Plain files among TreeChanges::files. Their attributes need not say so: those that were written through a mapping.
  std::unordered_set<uint64_t> told;
};

// What scan_tree() would find, and who is who (ids). `previous` null: all is read. Changes that happen meanwhile may be
// in the result or not: they must be in the next changes. Directories that are new in a place are read with everything
// below.
Result<Scan> update_scan(int root_fd, const Scan* previous, const TreeChanges& changes, const Follow& follow,
                         const Cancel& cancel, LookedAt& looked_at);

}  // namespace transship::storage
