// What pages held when they were last given out, for those whose protection alone does not tell that they are the same
// still. Only the tracker uses this. One thread.
#pragma once
#include <array>
#include <span>
#include <unordered_map>
#include <vector>

#include "memory/track/page_reader.h"

namespace transship::memory {

// Of one process. 40 bytes or so a page; above kMaxPages no more are remembered, and those count as changed.
class PageMarks {
 public:
  static constexpr size_t kMaxPages = 1U << 20;  // 4 GiB

  // The pages as they are now, in place of what was known of them. Pages that cannot be read are not known any more.
  // Errors: the reader's.
  Result<> remember(PageReader& reader, const PageRuns& runs, const Cancel& cancel);
  // Those of `runs` that hold something else by now, or of which nothing is known.
  Result<std::vector<PageRange>> changed(PageReader& reader, const PageRuns& runs, const Cancel& cancel) const;
  void clear() { marks_.clear(); }
  size_t size() const { return marks_.size(); }

 private:
  using Mark = std::array<uint64_t, 2>;
  std::unordered_map<uint64_t, Mark> marks_;
};

}  // namespace transship::memory
