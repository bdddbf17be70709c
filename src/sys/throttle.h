// Takes CPU time away from a running container, so that it writes less memory. By the cgroup's CPU quota where the cpu
// controller is on; otherwise by a duty cycle of short freezes.
#pragma once
#include <memory>
#include <string>

#include "sys/cgroup.h"

namespace transship::sys {

// One owner, one thread. While it exists nobody else may freeze or thaw the cgroup.
class Throttle {
 public:
  // Nothing changes until set(). Measures what the container uses now, for the quota.
  static Result<std::unique_ptr<Throttle>> create(const Cgroup& cgroup);
  // Lifts.
  ~Throttle();
  Throttle(const Throttle&) = delete;
  Throttle& operator=(const Throttle&) = delete;

  // Takes away `percent` (0..95) of the CPU time that it used when this object was made (quota), or of all time (duty
  // cycle). 0 lifts.
  Result<> set(uint32_t percent);
  // As it was before; thawed. Idempotent. A failure says what is still in place.
  Result<> lift();
  // "cpu.max" or "freezes".
  std::string_view method() const;

  // After a crash: puts back a quota of ours that is still on `cgroup`. Thawing is the caller's.
  static Result<> lift_stale(const Cgroup& cgroup);

 private:
  struct State;
  explicit Throttle(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace transship::sys
