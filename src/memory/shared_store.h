// Shared memory objects as they arrive, each in a memory file of its own. Not a copy of the object: it is what the
// restored processes will map.
#pragma once
#include <atomic>
#include <map>
#include <memory>
#include <vector>

#include "base/fd.h"
#include "base/mutex.h"
#include "base/result.h"
#include "memory/page_batch.h"
#include "memory/range_set.h"

namespace transship::memory {

// Thread-safe. Owns the files; whoever has one mapped keeps its memory.
class SharedStore {
 public:
  // What CRIU calls anonymous shared memory, and what it names its own files for it.
  static constexpr const char* kName = "/dev/zero";

  // `max_objects`: a descriptor for each.
  explicit SharedStore(size_t max_objects) : max_objects_(max_objects) {}
  // Pages of the shared object batch.space. False: there are max_objects others, so it is not kept here.
  Result<bool> put(const PageBatch& batch);
  // They are missing again. Nothing of an object that is not here.
  void drop(uint64_t id, PageRange range);
  bool holds(uint64_t id) const { return find(id) != nullptr; }
  // Ascending.
  std::vector<uint64_t> ids() const;
  // Lent; -1 when it is not here.
  int file(uint64_t id) const;
  // Those pages of `ranges` that have not arrived.
  std::vector<PageRange> missing(uint64_t id, std::span<const PageRange> ranges) const;
  // kNotFound: not all of it has arrived.
  Result<> read(uint64_t id, uint64_t address, std::span<std::byte> out) const;
  uint64_t bytes_held() const { return held_.load(); }

 private:
  struct Object {
    Fd file;
    mutable Mutex mu;
    RangeSet arrived GUARDED_BY(mu);
    uint64_t held GUARDED_BY(mu) = 0;  // bytes
  };
  std::shared_ptr<Object> find(uint64_t id) const;
  Result<std::shared_ptr<Object>> find_or_make(uint64_t id);
  static Result<> put_segment(Object& object, const PageSegment& segment, std::span<const std::byte> content)
      REQUIRES(object.mu);
  void count(Object& object) REQUIRES(object.mu);

  const size_t max_objects_;
  std::atomic<uint64_t> held_ = 0;
  mutable Mutex mu_;
  std::map<uint64_t, std::shared_ptr<Object>> objects_ GUARDED_BY(mu_);
};

}  // namespace transship::memory
