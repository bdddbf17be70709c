// Pages whose every word is known: what memory_churn writes, and what it must find again.
#pragma once
#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <random>
#include <string>
#include <vector>

namespace churn {

inline constexpr size_t kPageBytes = 4096;
inline constexpr size_t kPageWords = kPageBytes / sizeof(uint64_t);

// Thread-safe. All start at 0 and only grow, all but `refused` without end.
struct Counters {
  std::atomic<uint64_t> writes, checks, discards, maps, remaps, forks, execs, threads, stacks;
  std::atomic<uint64_t> refused;  // calls of mremap() that would have worked with nobody looking on
  std::string line() const;
};
extern Counters counters;

// Says what is wrong and ends the program with code 3. Never returns.
[[noreturn]] void bad(const char* where, const void* address, uint64_t expected, uint64_t found);
// A call that must work did not: code 4.
[[noreturn]] void broken(const char* what);

// What a page holds. 0 is a page of zeros, which is also one that was never touched.
using Key = uint64_t;
Key make_key(uint64_t salt, uint64_t place, uint64_t generation);
void fill_page(uint64_t* page, Key key);
void check_page(const uint64_t* page, Key key, const char* where);

uint64_t* map_pages(size_t pages, int flags);

// Many threads may rewrite, discard and check. The keys are kept elsewhere, so a page from another time is found even
// though it is right in itself.
class Area {
 public:
  // `flags`: MAP_PRIVATE or MAP_SHARED. `advice`: for madvise(), -1 for none. Nothing is touched yet.
  Area(const char* name, size_t pages, int flags, int advice);
  size_t pages() const { return keys_.size(); }
  void rewrite(size_t page);
  void check(size_t page);
  // Private memory only: zeros from now on.
  void discard(size_t first, size_t count);

 private:
  static constexpr size_t kStripe = 16;  // pages of one lock
  std::mutex& lock_of(size_t page) { return locks_[page / kStripe % locks_.size()]; }
  uint64_t* at(size_t page) const { return base_ + page * kPageWords; }

  const char* name_;
  uint64_t* base_;
  std::vector<Key> keys_;
  std::vector<uint32_t> generations_;
  std::array<std::mutex, 64> locks_;
};

class Dice {
 public:
  explicit Dice(uint64_t seed) : engine_(seed) {}
  size_t below(size_t limit) { return std::uniform_int_distribution<size_t>(0, limit - 1)(engine_); }

 private:
  std::mt19937_64 engine_;
};

}  // namespace churn
