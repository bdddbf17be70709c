// Pages that were sent out of turn, so that their turn can pass over them.
#pragma once
#include <algorithm>
#include <cstdint>
#include <map>
#include <vector>

#include "base/mutex.h"
#include "memory/page.h"

namespace transship::migrate {

// Thread-safe. Some 60 bytes for each add().
class SentAhead {
 public:
  void add(uint64_t task, memory::PageRange range) {
    MutexLock lock(mu_);
    auto& end = sent_[task][range.address];
    end = std::max(end, range.end());
  }
  void clear() {
    MutexLock lock(mu_);
    sent_.clear();
  }
  // What of `range` was not added, ascending. (Of spans that begin before it only the last is looked at: a part that is
  // overlooked is sent twice, nothing else.)
  std::vector<memory::PageRange> rest_of(uint64_t task, memory::PageRange range) const {
    std::vector<memory::PageRange> rest;
    uint64_t at = range.address;
    MutexLock lock(mu_);
    if (auto found = sent_.find(task); found != sent_.end()) {
      const auto& spans = found->second;
      auto span = spans.upper_bound(at);
      if (span != spans.begin()) --span;
      for (; span != spans.end() && span->first < range.end(); ++span) {
        if (span->second <= at) continue;
        if (span->first > at) rest.push_back({at, (span->first - at) / memory::kPageBytes});
        at = span->second;
      }
    }
    if (at < range.end()) rest.push_back({at, (range.end() - at) / memory::kPageBytes});
    return rest;
  }

 private:
  mutable Mutex mu_;
  std::map<uint64_t, std::map<uint64_t, uint64_t>> sent_ GUARDED_BY(mu_);  // by task: begin -> end
};

}  // namespace transship::migrate
