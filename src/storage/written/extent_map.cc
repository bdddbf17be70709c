#include "storage/written/extent_map.h"

#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>

#include "base/fd.h"

namespace transship::storage {
namespace {

constexpr uint32_t kAtOnce = 1024;

PlacedExtent placed(const fiemap_extent& e) {
  constexpr uint32_t kNowhere =
      FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_DATA_INLINE | FIEMAP_EXTENT_DATA_TAIL;
  auto kind = PlacedExtent::Kind::kData;
  if ((e.fe_flags & kNowhere) != 0)
    kind = PlacedExtent::Kind::kUnplaced;
  else if ((e.fe_flags & (FIEMAP_EXTENT_ENCODED | FIEMAP_EXTENT_NOT_ALIGNED)) != 0)
    kind = PlacedExtent::Kind::kEncoded;
  else if ((e.fe_flags & FIEMAP_EXTENT_UNWRITTEN) != 0)
    kind = PlacedExtent::Kind::kUnwritten;
  return {.kind = kind, .offset = e.fe_logical, .length = e.fe_length, .place = e.fe_physical};
}

// A walk along the extents of one look.
class Walk {
 public:
  explicit Walk(const std::vector<PlacedExtent>& extents) : extents_(extents) {}
  // The extent that `at` is in; null: a hole.
  const PlacedExtent* extent(uint64_t at) {
    while (index_ < extents_.size() && end_of(index_) <= at) ++index_;
    return index_ < extents_.size() && extents_[index_].offset <= at ? &extents_[index_] : nullptr;
  }
  // Where something else begins; after extent(at).
  uint64_t next(uint64_t at, uint64_t size) const {
    if (index_ == extents_.size()) return size;
    return std::min(size, extents_[index_].offset <= at ? end_of(index_) : extents_[index_].offset);
  }

 private:
  uint64_t end_of(size_t index) const { return extents_[index].offset + extents_[index].length; }
  const std::vector<PlacedExtent>& extents_;
  size_t index_ = 0;
};

bool same(const PlacedExtent* a, const PlacedExtent* b) {
  if (a == nullptr || b == nullptr) return a == b;
  if (a->kind != b->kind || a->kind == PlacedExtent::Kind::kUnplaced) return false;
  if (a->kind == PlacedExtent::Kind::kEncoded)
    return a->place == b->place && a->offset == b->offset && a->length == b->length;
  return a->place - a->offset == b->place - b->offset;
}

}  // namespace

Result<std::vector<PlacedExtent>> read_extent_map(int fd, uint64_t size, bool sync) {
  auto room = std::make_unique<std::byte[]>(sizeof(fiemap) + kAtOnce * sizeof(fiemap_extent));
  auto* map = reinterpret_cast<fiemap*>(room.get());
  std::vector<PlacedExtent> found;
  for (uint64_t at = 0; at < size;) {
    std::memset(map, 0, sizeof *map);
    map->fm_start = at;
    map->fm_length = size - at;
    map->fm_flags = sync && at == 0 ? FIEMAP_FLAG_SYNC : 0;
    map->fm_extent_count = kAtOnce;
    if (retry_eintr([&] { return ::ioctl(fd, FS_IOC_FIEMAP, map); }) < 0)
      return fail_errno(errno, "cannot read where a file is on its disk");
    if (map->fm_mapped_extents == 0) break;
    for (uint32_t i = 0; i < map->fm_mapped_extents; ++i) found.push_back(placed(map->fm_extents[i]));
    const auto& last = map->fm_extents[map->fm_mapped_extents - 1];
    if ((last.fe_flags & FIEMAP_EXTENT_LAST) != 0 || last.fe_logical + last.fe_length <= at) break;
    at = last.fe_logical + last.fe_length;
  }
  return found;
}

std::vector<Extent> moved_ranges(const std::vector<PlacedExtent>& before, const std::vector<PlacedExtent>& now,
                                 uint64_t size) {
  std::vector<Extent> moved;
  Walk old(before), current(now);
  for (uint64_t at = 0; at < size;) {
    bool equal = same(old.extent(at), current.extent(at));
    uint64_t end = std::min(old.next(at, size), current.next(at, size));
    if (!equal) moved.push_back({.offset = static_cast<int64_t>(at), .length = static_cast<int64_t>(end - at)});
    at = end;
  }
  return merge_ranges(std::move(moved), size);
}

std::vector<Extent> merge_ranges(std::vector<Extent> ranges, uint64_t size) {
  std::ranges::sort(ranges, {}, &Extent::offset);
  std::vector<Extent> merged;
  for (const auto& range : ranges) {
    int64_t end = std::min(range.offset + range.length, static_cast<int64_t>(size));
    if (range.offset >= end) continue;
    if (merged.empty() || merged.back().offset + merged.back().length < range.offset)
      merged.push_back({.offset = range.offset, .length = end - range.offset});
    else
      merged.back().length = std::max(merged.back().length, end - merged.back().offset);
  }
  return merged;
}

}  // namespace transship::storage
