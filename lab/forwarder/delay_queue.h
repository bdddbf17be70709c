// Packets on their way along a link: first in, first out, each due a fixed time after it came in.
#pragma once
#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>

#include "forwarder/frame.h"

namespace transship::lab {

using Clock = std::chrono::steady_clock;

// One thread. Bounded by bytes: what does not fit is dropped, as a router's queue does.
class DelayQueue {
 public:
  DelayQueue(Clock::duration delay, size_t max_bytes) : delay_(delay), max_bytes_(max_bytes) {}

  // False if the packet was dropped because the queue is full. A packet always fits into an empty queue.
  bool push(Frame frame, Clock::time_point now);
  // The oldest packet, if it is due.
  const Frame* due(Clock::time_point now) const;
  // Removes the oldest packet. Requires: not empty.
  void pop();
  // When the oldest packet is due; nothing if the queue is empty.
  std::optional<Clock::time_point> next_due() const;

  size_t bytes() const { return bytes_; }
  size_t packets() const { return frames_.size(); }
  uint64_t dropped() const { return dropped_; }

 private:
  struct Waiting {
    Clock::time_point due;
    Frame frame;
  };

  Clock::duration delay_;
  size_t max_bytes_;
  size_t bytes_ = 0;
  uint64_t dropped_ = 0;
  std::deque<Waiting> frames_;
};

}  // namespace transship::lab
