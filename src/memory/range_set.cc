#include "memory/range_set.h"

#include <algorithm>

namespace transship::memory {

RangeSet::Ends::const_iterator RangeSet::first_ending_after(uint64_t address) const {
  auto it = ends_.upper_bound(address);
  if (it != ends_.begin() && std::prev(it)->second > address) return std::prev(it);
  return it;
}

void RangeSet::add(PageRange range) {
  uint64_t start = range.address;
  uint64_t end = range.end();
  auto it = ends_.upper_bound(start);
  // One that ends just where this one begins becomes part of it.
  if (it != ends_.begin() && std::prev(it)->second >= start) {
    --it;
    start = it->first;
  }
  while (it != ends_.end() && it->first <= end) {
    end = std::max(end, it->second);
    it = ends_.erase(it);
  }
  ends_.emplace_hint(it, start, end);
}

void RangeSet::remove(PageRange range) {
  auto it = first_ending_after(range.address);
  while (it != ends_.end() && it->first < range.end()) {
    auto [start, end] = *it;
    it = ends_.erase(it);
    if (start < range.address) ends_.emplace(start, range.address);
    if (end > range.end()) ends_.emplace(range.end(), end);
  }
}

bool RangeSet::overlaps(PageRange range) const {
  auto it = first_ending_after(range.address);
  return it != ends_.end() && it->first < range.end();
}

std::vector<PageRange> RangeSet::missing(std::span<const PageRange> ranges) const {
  std::vector<PageRange> list;
  for (const auto& range : ranges) {
    uint64_t at = range.address;
    for (auto it = first_ending_after(at); at < range.end(); ++it) {
      uint64_t next = it == ends_.end() ? range.end() : std::min(range.end(), it->first);
      if (next > at) list.push_back({at, (next - at) / kPageBytes});
      if (it == ends_.end()) break;
      at = it->second;
    }
  }
  return list;
}

uint64_t RangeSet::pages() const {
  uint64_t bytes = 0;
  for (const auto& [start, end] : ends_) bytes += end - start;
  return bytes / kPageBytes;
}

}  // namespace transship::memory
