// What is different between two scans of one tree. Pure.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "storage/scan.h"

namespace transship::storage {

struct ScanDiff {
  std::vector<std::string> deleted;  // topmost names only
  std::vector<bool> send;            // by node of the new scan
};

// What of the previous scan was not settled: it may be different without looking so.
enum class Unsettled { kDiffers, kIsAsItLooks };

// Everything is sent when `previous` is null. All names of an inode are sent when one of them is.
ScanDiff diff_scans(const Scan* previous, const Scan& now, const std::unordered_set<uint64_t>& always,
                    Unsettled unsettled = Unsettled::kDiffers);

// Character device 0:0: overlay's mark for a name that was removed. Overlay links many of them to one inode.
inline bool is_whiteout(mode_t mode, dev_t rdev) { return S_ISCHR(mode) && rdev == 0; }

// While CRIU dumps a tmpfs it mounts it once more on a directory that it makes in the container (in the root, or in
// tmp) for a moment: none of the container's doing, and gone when it would be sent.
bool looks_like_crius(std::string_view name, const struct stat& st);

int64_t to_ns(const timespec& t);
int64_t wall_clock_ns();
// As seen at `seen_at_ns`, which must have been read before the attributes were.
void set_attributes(Node& node, const struct stat& st, int64_t seen_at_ns);

}  // namespace transship::storage
