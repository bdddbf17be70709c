// Made-up page contents for tests and benchmarks: reproducible, and compressible or not.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "memory/page.h"

namespace transship::memory {

// xorshift64*; the same sequence everywhere, and fast enough to fill gigabytes.
class TestRandom {
 public:
  explicit TestRandom(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15U + 1) {}
  uint64_t next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545F4914F6CDD1DU;
  }
  uint64_t below(uint64_t limit) { return next() % limit; }

 private:
  uint64_t state_;
};

inline void fill_random(std::span<std::byte> to, uint64_t seed) {
  TestRandom random(seed);
  for (size_t at = 0; at < to.size(); at += sizeof(uint64_t)) {
    uint64_t value = random.next();
    std::memcpy(to.data() + at, &value, std::min(sizeof value, to.size() - at));
  }
}

// Like a heap of small objects: pointers that share their upper half, small numbers, text, and gaps. LZ4 makes it about
// 0.22 of its size, zstd 0.15.
inline void fill_like_a_heap(std::span<std::byte> to, uint64_t seed) {
  static constexpr char kText[] = "user:session:0000:last-login;";
  TestRandom random(seed);
  for (size_t at = 0; at + 64 <= to.size(); at += 64) {
    uint64_t object[8] = {0x00007f3a00000000U | random.below(1U << 28) << 4, 64, random.below(1000), 0, 0, 0, 0, 0};
    std::memcpy(&object[3], kText, sizeof kText - 1);
    object[7] = random.below(4) == 0 ? random.next() : 0;
    std::memcpy(to.data() + at, object, sizeof object);
  }
}

enum class TestContent { kRandom, kHeap };
inline std::vector<std::byte> test_pages(TestContent content, size_t pages, uint64_t seed = 1) {
  std::vector<std::byte> bytes(pages * kPageBytes);
  content == TestContent::kRandom ? fill_random(bytes, seed) : fill_like_a_heap(bytes, seed);
  return bytes;
}

}  // namespace transship::memory
