#include "forwarder/delay_queue.h"

#include "base/result.h"

namespace transship::lab {

bool DelayQueue::push(Frame frame, Clock::time_point now) {
  const size_t size = frame.data.size();
  if (!frames_.empty() && size > max_bytes_ - std::min(bytes_, max_bytes_)) {
    ++dropped_;
    return false;
  }
  bytes_ += size;
  frames_.push_back({now + delay_, std::move(frame)});
  return true;
}

const Frame* DelayQueue::due(Clock::time_point now) const {
  return frames_.empty() || frames_.front().due > now ? nullptr : &frames_.front().frame;
}

void DelayQueue::pop() {
  TS_CHECK(!frames_.empty(), "pop from an empty queue");
  bytes_ -= frames_.front().frame.data.size();
  frames_.pop_front();
}

std::optional<Clock::time_point> DelayQueue::next_due() const {
  if (frames_.empty()) return std::nullopt;
  return frames_.front().due;
}

}  // namespace transship::lab
