#include "storage/make_patch.h"

#include <unistd.h>

#include <algorithm>

#include "storage/beneath.h"

namespace transship::storage {
namespace {

constexpr size_t kRunBlocks = 16;  // read at once
constexpr auto kBlockBytes = static_cast<size_t>(kHashBlock);
// Data of one entry. Large enough for its attributes to cost nothing, little enough to be held.
constexpr size_t kEntryData = 4U << 20;

}  // namespace

PatchMaker::PatchMaker(int fd, const Entry& entry, const std::vector<Extent>* parts, FileHashes base,
                       ArchiveWriter& out, const Cancel& cancel)
    : fd_(fd), entry_(entry), size_(entry.size), hashes_(std::move(base)), out_(out), cancel_(cancel) {
  entry_.kind = Entry::Kind::kPatch;
  entry_.patch.base_size = hashes_.size;
  entry_.patch.size = size_;
  hashes_.size = size_;
  hashes_.blocks.resize(block_count(size_));  // what it grows by is a hole at first, there as here
  read_.resize(hashes_.blocks.size(), parts == nullptr);
  mark_blocks_to_read(parts, entry_.patch.base_size);
}

void PatchMaker::mark_blocks_to_read(const std::vector<Extent>* parts, int64_t base_size) {
  if (parts == nullptr) return;
  for (const auto& part : *parts) mark(part);
  // The block that was the last one, or is it now, has been cut or filled up.
  if (base_size != size_) mark({std::max<int64_t>(std::min(base_size, size_) - 1, 0), 1});
}

void PatchMaker::mark(const Extent& part) {
  if (part.length <= 0 || part.offset >= size_) return;
  auto from = std::max<int64_t>(part.offset, 0);
  auto to = part.length > size_ - from ? size_ : std::min(size_, part.offset + part.length);
  for (auto b = from / kHashBlock; b * kHashBlock < to; ++b) read_[static_cast<size_t>(b)] = true;
}

// Its place in the file.
Extent PatchMaker::in_block(size_t block) const {
  auto at = static_cast<int64_t>(block) * kHashBlock;
  return {at, std::min(kHashBlock, size_ - at)};
}

Result<FileHashes> PatchMaker::run() {
  TS_TRY_ASSIGN(extents_, data_extents(fd_, size_));
  // A hole that begins or ends within a block may not have been there: nobody writes when a hole is made.
  for (const auto& x : extents_) {
    if (x.offset % kHashBlock != 0) mark({x.offset, 1});
    if (x.end() % kHashBlock != 0 && x.end() != size_) mark({x.end() - 1, 1});
  }
  size_t count = hashes_.blocks.size();
  size_t extent = 0;
  size_t run = 0;  // blocks before the one that is looked at, which wait for being read
  for (size_t b = 0; b < count; ++b) {
    auto place = in_block(b);
    while (extent < extents_.size() && extents_[extent].end() <= place.offset) ++extent;
    bool hole = extent == extents_.size() || extents_[extent].offset >= place.end();
    bool read = !hole && (read_[b] || hashes_.blocks[b].is_hole());
    if (run > 0 && (!read || run == kRunBlocks)) {
      TS_TRY(read_run(b - run, b));
      run = 0;
    }
    if (read) ++run;
    if (!hole || hashes_.blocks[b].is_hole()) continue;
    hashes_.blocks[b] = {};
    TS_TRY(add_range({place.offset, place.length, true}, {}));
  }
  if (run > 0) TS_TRY(read_run(count - run, count));
  if (stats_.entries == 0 || !entry_.patch.ranges.empty()) TS_TRY(flush());
  return std::move(hashes_);
}

// What the file has lost meanwhile is zeros; it is sent again next time.
Result<> PatchMaker::read_run(size_t first, size_t last) {
  TS_TRY(cancel_.check());
  auto from = in_block(first).offset;
  auto length = static_cast<size_t>(in_block(last - 1).end() - from);
  buffer_.resize(kRunBlocks * kBlockBytes);
  size_t have = 0;
  while (have < length) {
    ssize_t n = retry_eintr(
        [&] { return ::pread(fd_, buffer_.data() + have, length - have, from + static_cast<int64_t>(have)); });
    if (n < 0) return fail_errno(errno, "{}: read at {}", printable(entry_.path), from + static_cast<int64_t>(have));
    if (n == 0) break;
    have += static_cast<size_t>(n);
  }
  stats_.read_bytes += have;
  auto bytes = std::span(buffer_).first((last - first) * kBlockBytes);
  std::ranges::fill(bytes.subspan(have), std::byte{0});
  blank_holes(first, bytes);
  for (size_t b = first; b < last; ++b) {
    TS_TRY(compare(b, bytes.first(kBlockBytes)));
    bytes = bytes.subspan(kBlockBytes);
  }
  return {};
}

// What was a hole when we looked is sent as one, and has to be hashed as one, whatever has been written there since.
void PatchMaker::blank_holes(size_t first, std::span<std::byte> bytes) {
  auto from = in_block(first).offset;
  auto end = from + static_cast<int64_t>(bytes.size());
  while (extent_ < extents_.size() && extents_[extent_].end() <= from) ++extent_;
  int64_t at = from;
  auto blank = [&](int64_t to) {
    auto hole = bytes.subspan(static_cast<size_t>(at - from), static_cast<size_t>(std::max<int64_t>(to - at, 0)));
    std::ranges::fill(hole, std::byte{0});
  };
  for (size_t i = extent_; i < extents_.size() && extents_[i].offset < end; ++i) {
    blank(extents_[i].offset);
    at = std::min(end, extents_[i].end());
  }
  blank(end);
}

Result<> PatchMaker::compare(size_t block, std::span<const std::byte> bytes) {
  BlockHash& known = hashes_.blocks[block];
  auto hash = hash_block(bytes);
  if (hash == known || (known.is_hole() && hash == zero_block_hash())) return {};
  known = hash;
  return add_block(in_block(block), bytes);
}

Result<> PatchMaker::add_block(const Extent& block, std::span<const std::byte> bytes) {
  while (extent_ < extents_.size() && extents_[extent_].end() <= block.offset) ++extent_;
  int64_t at = block.offset;
  for (size_t i = extent_; i < extents_.size() && extents_[i].offset < block.end(); ++i) {
    auto from = std::max(at, extents_[i].offset);
    auto to = std::min(block.end(), extents_[i].end());
    if (from > at) TS_TRY(add_range({at, from - at, true}, {}));
    TS_TRY(add_range({from, to - from, false},
                     bytes.subspan(static_cast<size_t>(from - block.offset), static_cast<size_t>(to - from))));
    at = to;
  }
  if (at < block.end()) TS_TRY(add_range({at, block.end() - at, true}, {}));
  return {};
}

Result<> PatchMaker::add_range(const PatchRange& range, std::span<const std::byte> bytes) {
  auto& ranges = entry_.patch.ranges;
  if (data_.size() + bytes.size() > kEntryData) TS_TRY(flush());
  if (!ranges.empty() && ranges.back().hole == range.hole && ranges.back().end() == range.offset) {
    ranges.back().length += range.length;
  } else {
    if (ranges.size() == Patch::kMaxRanges) TS_TRY(flush());
    ranges.push_back(range);
  }
  data_.insert(data_.end(), bytes.begin(), bytes.end());
  return {};
}

Result<> PatchMaker::flush() {
  TS_TRY(out_.header(entry_));
  TS_TRY(out_.data(data_));
  ++stats_.entries;
  stats_.data_bytes += data_.size();
  data_.clear();
  entry_.patch.ranges.clear();
  entry_.patch.base_size = size_;
  return {};
}

}  // namespace transship::storage
