// How a page store looks in the memory that two processes share. For page_store*.cc only.
#pragma once
#include <array>
#include <atomic>
#include <limits>

#include "memory/page_store.h"

namespace transship::memory {

inline constexpr uint64_t kMagic = 0x3165726f74537354;  // "TsStore1"
inline constexpr uint64_t kChunkPages = PageStore::kChunkBytes / kPageBytes;
inline constexpr uint64_t kPagesPerWord = 32;
inline constexpr uint64_t kWordsPerChunk = kChunkPages / kPagesPerWord;
inline constexpr uint64_t kDataBytes = PageStore::kMaxChunks * PageStore::kChunkBytes;
// Above any address of a process and any offset in a file.
inline constexpr uint64_t kAddressEnd = uint64_t{1} << 62;
inline constexpr uint64_t kLowBits = 0x5555555555555555;

// One bit (the lower of its two) for each page that is in state `s`.
inline uint64_t pages_in_state(uint64_t word, PageState s) {
  uint64_t low = word & kLowBits;
  uint64_t high = (word >> 1) & kLowBits;
  switch (s) {
    case PageState::kAbsent: return ~low & ~high & kLowBits;
    case PageState::kContent: return low & ~high;
    case PageState::kZero: return high & ~low;
    case PageState::kFilled: return low & high;
  }
  return 0;
}

// One bit for each of `count` pages from `first` on, within one word.
inline uint64_t page_mask(uint64_t first, uint64_t count) {
  uint64_t all = count == kPagesPerWord ? kLowBits : (uint64_t{1} << (2 * count)) - 1;
  return (all & kLowBits) << (2 * first);
}

inline uint64_t with_state(uint64_t word, uint64_t mask, PageState s) {
  auto bits = static_cast<uint64_t>(s);
  return (word & ~(mask * 3)) | (mask * bits);
}

inline bool usable(PageRange r) {
  return r.address % kPageBytes == 0 && r.pages > 0 && r.pages <= std::numeric_limits<uint64_t>::max() / kPageBytes &&
         r.bytes() <= kAddressEnd && r.address <= kAddressEnd - r.bytes();
}

inline bool usable(SpaceId s) { return s.kind == SpaceKind::kTask || s.kind == SpaceKind::kShared; }

struct PageStore::ChunkName {
  uint64_t kind;
  uint64_t id;
  uint64_t base;
};

// Written by one process that puts and by the pager; everything that can change is atomic.
struct PageStore::Header {
  uint64_t magic;
  std::atomic<uint32_t> chunks;  // entries of `names` that are complete
  std::atomic<uint32_t> sealed;
  std::atomic<uint64_t> limit_pages;
  std::atomic<uint64_t> held_pages;
  PagerCounters counters;
  std::array<ChunkName, kMaxChunks> names;
  alignas(4096) std::array<std::array<std::atomic<uint64_t>, kWordsPerChunk>, kMaxChunks> states;
};
static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free);

}  // namespace transship::memory
