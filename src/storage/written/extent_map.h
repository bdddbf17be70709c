// Where the contents of a file are on its disk, as the file system tells (FIEMAP), and what differs between two looks.
#pragma once
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "storage/archive.h"

namespace transship::storage {

struct PlacedExtent {
  enum class Kind {
    kData,
    kUnwritten,  // reads as zeros
    kEncoded,    // compressed or encrypted: of its place only the start is told
    kUnplaced,   // in memory as yet, or inside of metadata: equal to nothing
  };
  Kind kind = Kind::kUnplaced;
  uint64_t offset = 0;
  uint64_t length = 0;
  uint64_t place = 0;
};

// In the order of their offsets, those below `size`; what is in none is a hole. Only pages that have been written out
// have a place; `sync`: have the kernel do that first. While the file is changed, each part is told as it was at some
// time during the call.
Result<std::vector<PlacedExtent>> read_extent_map(int fd, uint64_t size, bool sync = false);

// Ranges below `size` that are somewhere else, or of another kind; sorted.
std::vector<Extent> moved_ranges(const std::vector<PlacedExtent>& before, const std::vector<PlacedExtent>& now,
                                 uint64_t size);

// Sorted, overlapping and touching ones made one, and cut at `size`.
std::vector<Extent> merge_ranges(std::vector<Extent> ranges, uint64_t size);

}  // namespace transship::storage
