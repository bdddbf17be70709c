// Milliseconds as the messages between two daemons carry them.
#pragma once
#include <algorithm>
#include <cstdint>

#include "base/cancel.h"

namespace transship::migrate {

// 0 when `end` is before `begin`.
inline uint32_t ms_between(Clock::time_point begin, Clock::time_point end) {
  auto ms = std::chrono::duration_cast<milliseconds>(end - begin).count();
  return static_cast<uint32_t>(std::max<int64_t>(0, ms));
}

inline uint32_t ms_since(Clock::time_point begin) { return ms_between(begin, Clock::now()); }

}  // namespace transship::migrate
