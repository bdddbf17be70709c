// The wall clock, for records and events that people or peers read; durations are measured with Clock (base/cancel.h).
#pragma once
#include <chrono>
#include <cstdint>

namespace transship {

inline int64_t unix_ms_now() {
  auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

}  // namespace transship
