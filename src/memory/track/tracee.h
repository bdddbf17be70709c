// One stopped thread of another process, made to run system calls. Only inject.cc uses this.
//
// Everything here belongs to the thread that called stop(): ptrace knows tracers by thread. When that thread ends, the
// kernel lets go of the tracee whatever state it is in; so a tracee that could not be stopped is given up by ending.
// From run() to release() nothing takes memory from the heap or a lock, unless it fails: see sys/apart.h.
#pragma once
#include <sys/types.h>
#include <sys/user.h>

#include <chrono>
#include <cstdint>

#include "base/cancel.h"
#include "base/result.h"

namespace transship::memory {

class Tracee {
 public:
  Tracee(pid_t process, pid_t thread) : process_(process), thread_(thread) {}
  Tracee(const Tracee&) = delete;
  Tracee& operator=(const Tracee&) = delete;
  // Puts the thread back as it was and lets it go.
  ~Tracee() { release(); }

  // Stops the thread where its registers, put back later, also restart an interrupted system call. kTimeout when it
  // does not stop by then (vfork, a device): the tracee is then given up when the calling thread ends.
  Result<> stop(Deadline deadline);
  // Whether it stands where a system call may be run; says why not. kUnavailable: not here, a moment later it may.
  Result<> check_state() const;
  // Runs one system call with the instruction at `instruction`; what the kernel returned, negative for an errno.
  Result<long> run(uint64_t instruction, long number, long argument, Deadline deadline);
  // Idempotent.
  void release();
  std::chrono::microseconds stopped() const { return stopped_; }

 private:
  enum class State { kFree, kSeized, kStopped, kChanged };
  Result<> wait_stop(int& status, Deadline deadline) const;
  Result<> reach_event_stop(Deadline deadline);
  Result<> save();
  pid_t process_;
  pid_t thread_;
  State state_ = State::kFree;
  user_regs_struct registers_ = {};
  uint64_t signals_ = 0;
  Clock::time_point since_;
  std::chrono::microseconds stopped_{0};
};

}  // namespace transship::memory
