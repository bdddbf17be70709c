// A token bucket that several threads draw from.
#pragma once
#include <cstdint>

#include "base/cancel.h"
#include "base/mutex.h"

namespace transship::wire {

// Thread-safe.
class RateLimit {
 public:
  // Bytes per second; 0: no limit.
  explicit RateLimit(uint64_t rate) : rate_(rate) {}
  void set(uint64_t rate) {
    MutexLock lock(mu_);
    rate_ = rate;
    free_at_ = {};
  }
  bool limited() const {
    MutexLock lock(mu_);
    return rate_ != 0;
  }
  // Takes `bytes`, and says how long to wait before sending them. Requests queue up fairly: each one starts where the
  // one before it ends. What was not used in the past is lost but for a burst of 20 ms.
  std::chrono::nanoseconds take(uint64_t bytes, Clock::time_point now) {
    constexpr std::chrono::milliseconds kBurst{20};
    MutexLock lock(mu_);
    if (rate_ == 0) return {};
    free_at_ = std::max(free_at_, now - kBurst);
    auto wait = std::max(free_at_ - now, Clock::duration{});
    double ns = static_cast<double>(bytes) * 1e9 / static_cast<double>(rate_);
    free_at_ += std::chrono::nanoseconds(static_cast<int64_t>(ns));
    return wait;
  }

 private:
  mutable Mutex mu_;
  uint64_t rate_ GUARDED_BY(mu_);
  Clock::time_point free_at_ GUARDED_BY(mu_);
};

}  // namespace transship::wire
