// What goes from the tracker to the reader and from the reader to the sender. Values and borrowed views only.
#pragma once
#include <sys/types.h>

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "base/result.h"
#include "memory/page_batch.h"

namespace transship::memory {

// Pages of one process that are to be read, now. Ranges may come in any order; none is empty.
struct PageRuns {
  SpaceId space;
  pid_t pid = 0;  // a live thread of the process as this host sees it: what its memory is read through
  std::span<const PageRange> ranges;  // valid during the call
};
using RunSink = std::function<Result<>(const PageRuns&)>;

// Pages with their content, the ranges' one after the other; at most kBlockPages of them.
struct PageBlock {
  SpaceId space;
  std::span<const PageRange> ranges;   // valid during the call
  std::span<const std::byte> content;  // valid during the call
};
using PageBlockSink = std::function<Result<>(const PageBlock&)>;

// What one batch carries.
inline constexpr size_t kBlockPages = kBatchPages;

// Appends, joining what touches.
inline void append_range(std::vector<PageRange>& ranges, uint64_t address, uint64_t pages) {
  if (!ranges.empty() && ranges.back().end() == address) {
    ranges.back().pages += pages;
  } else {
    ranges.push_back({address, pages});
  }
}

}  // namespace transship::memory
