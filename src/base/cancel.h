// Deadlines, and a cancel signal that every blocking wait also watches.
#pragma once
#include <chrono>
#include <memory>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace transship {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// A point in time by which something must have happened. Immutable value.
class Deadline {
 public:
  static Deadline in(milliseconds d) { return Deadline(Clock::now() + d); }
  // The earlier of the two.
  Deadline sooner(Deadline other) const { return Deadline(std::min(at_, other.at_)); }
  bool passed() const { return Clock::now() >= at_; }
  // Never negative; rounded up, so that a wait of "remaining" is never a busy loop.
  milliseconds remaining() const;
  Clock::time_point at() const { return at_; }

 private:
  explicit Deadline(Clock::time_point at) : at_(at) {}
  Clock::time_point at_;
};

// One cancel signal that threads can both poll() on and test. Never un-cancels. Thread-safe. Copies share the signal.
class Cancel {
 public:
  static Result<Cancel> create();
  // Only the first reason is kept.
  void cancel(std::string reason);
  bool cancelled() const;
  std::string reason() const;
  // Readable once cancelled; borrowed.
  int poll_fd() const;
  // kCancelled with the reason when cancelled.
  Result<> check() const;

 private:
  struct State;
  explicit Cancel(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;
};

// Waits until `fd` is readable (or writable), `cancel` fires or the deadline passes. `what` goes into the error.
Result<> wait_readable(int fd, const Cancel& cancel, Deadline deadline, std::string_view what);
Result<> wait_writable(int fd, const Cancel& cancel, Deadline deadline, std::string_view what);
// Sleeps; kCancelled when cancelled before that.
Result<> sleep_for(milliseconds d, const Cancel& cancel);

}  // namespace transship
