#include "memory/track/page_marks.h"

#include <xxhash.h>

namespace transship::memory {
namespace {

// fn(address, content) for each page that could be read.
template <class Fn>
Result<ReadStats> for_each_page(PageReader& reader, const PageRuns& runs, const Cancel& cancel, Fn&& fn) {
  return reader.read(
      runs,
      [&](const PageBlock& block) -> Result<> {
        const std::byte* content = block.content.data();
        for (const auto& range : block.ranges)
          for (uint64_t at = range.address; at < range.end(); at += kPageBytes, content += kPageBytes) fn(at, content);
        return {};
      },
      cancel);
}

}  // namespace

Result<> PageMarks::remember(PageReader& reader, const PageRuns& runs, const Cancel& cancel) {
  TS_TRY_ASSIGN(ReadStats stats, for_each_page(reader, runs, cancel, [this](uint64_t at, const std::byte* content) {
                  XXH128_hash_t hash = XXH3_128bits(content, kPageBytes);
                  if (marks_.size() < kMaxPages || marks_.contains(at)) marks_[at] = {hash.low64, hash.high64};
                }));
  for (const auto& range : stats.gone)
    for (uint64_t at = range.address; at < range.end(); at += kPageBytes) marks_.erase(at);
  return {};
}

Result<std::vector<PageRange>> PageMarks::changed(PageReader& reader, const PageRuns& runs,
                                                  const Cancel& cancel) const {
  std::vector<PageRange> found;
  TS_TRY_ASSIGN(ReadStats stats, for_each_page(reader, runs, cancel, [&](uint64_t at, const std::byte* content) {
                  XXH128_hash_t hash = XXH3_128bits(content, kPageBytes);
                  auto known = marks_.find(at);
                  if (known == marks_.end() || known->second != Mark{hash.low64, hash.high64})
                    append_range(found, at, 1);
                }));
  found.insert(found.end(), stats.gone.begin(), stats.gone.end());
  return found;
}

}  // namespace transship::memory
