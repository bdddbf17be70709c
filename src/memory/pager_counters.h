// What the pager counts, in memory that it shares with the daemon: readable at any time, and after either has died.
#pragma once
#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstdint>

namespace transship::memory {

// Waiting times by size: four buckets for each power of two of microseconds. Thread-safe; reading while others add
// gives a value that was true a moment ago.
class WaitHistogram {
 public:
  void add(std::chrono::microseconds wait) {
    buckets_[bucket_of(static_cast<uint64_t>(std::max<int64_t>(wait.count(), 0)))].fetch_add(1,
                                                                                             std::memory_order_relaxed);
  }
  uint64_t count() const {
    uint64_t n = 0;
    for (const auto& b : buckets_) n += b.load(std::memory_order_relaxed);
    return n;
  }
  // The wait that `share` (0 to 1) of all waits did not exceed, rounded up to the end of its bucket (at most 25 %
  // more).
  std::chrono::microseconds quantile(double share) const {
    auto rank = static_cast<uint64_t>(static_cast<double>(count()) * share);
    uint64_t seen = 0;
    uint64_t last = 0;
    for (size_t i = 0; i < buckets_.size(); ++i) {
      auto n = buckets_[i].load(std::memory_order_relaxed);
      if (n == 0) continue;
      seen += n;
      last = end_of(i);
      if (seen > rank) break;
    }
    return std::chrono::microseconds(last);
  }

 private:
  static size_t bucket_of(uint64_t us) {
    if (us < 4) return us;
    auto log = static_cast<size_t>(std::bit_width(us)) - 1;
    return std::min<size_t>(log * 4 - 4 + (us >> (log - 2) & 3), kBuckets - 1);
  }
  static uint64_t end_of(size_t bucket) {
    if (bucket < 4) return bucket;
    auto log = (bucket + 4) / 4;
    return ((4 + (bucket + 4) % 4 + 1) << (log - 2)) - 1;
  }
  static constexpr size_t kBuckets = 160;  // up to 2^41 us
  std::array<std::atomic<uint64_t>, kBuckets> buckets_;
};

struct PagerCounters {
  std::atomic<uint64_t> expected_pages;  // of all spaces; what a fork adds comes on top
  std::atomic<uint64_t> done_pages;      // filled, or not needed any more (unmapped, discarded, their process ended)
  std::atomic<uint64_t> faults;          // on expected pages
  std::atomic<uint64_t> zero_faults;     // on other pages, answered with zeros
  std::atomic<uint64_t> requests;        // faults on pages that had not arrived
  std::atomic<uint64_t> tasks;           // that the pager has seen, forked ones too
  std::atomic<uint64_t> tasks_gone;      // that ended before they were filled
  std::atomic<uint64_t> cpu_us;          // of the pager; known when it has ended
  WaitHistogram waits;                   // of faults on expected pages, from the pager's reading them to their end
};

}  // namespace transship::memory
