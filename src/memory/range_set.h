// A set of pages, kept as ranges.
#pragma once
#include <map>
#include <span>
#include <vector>

#include "memory/page.h"

namespace transship::memory {

// One thread. Ranges are whole pages, not empty, and end below 2^63.
class RangeSet {
 public:
  void add(PageRange range);
  void remove(PageRange range);
  bool overlaps(PageRange range) const;
  // Those pages of `ranges` that are not in the set, in their order.
  std::vector<PageRange> missing(std::span<const PageRange> ranges) const;
  // Neighbours are one.
  size_t count() const { return ends_.size(); }
  uint64_t pages() const;

 private:
  using Ends = std::map<uint64_t, uint64_t>;  // address -> end
  Ends::const_iterator first_ending_after(uint64_t address) const;

  Ends ends_;
};

}  // namespace transship::memory
