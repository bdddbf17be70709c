#include "forwarder/direction.h"

#include <poll.h>
#include <sys/prctl.h>

#include <ctime>

#include "forwarder/segments.h"

namespace transship::lab {

Direction::Direction(PacketSocket& from, PacketSocket& to, const Wire& wire)
    : from_(from), to_(to), lossy_(wire.loss > 0), loss_(wire.loss, wire.seed), queue_(wire.delay, wire.queue_bytes) {}

Result<> Direction::run(const Cancel& cancel) {
  // Timers of this thread may be 1 ns late, not the usual 50 µs.
  if (::prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0) != 0) return fail_errno(errno, "set the timer slack");
  while (!cancel.cancelled()) {
    TS_TRY(wait(cancel));
    TS_TRY(take_in());
    send_due();
  }
  counters_.overflown = queue_.dropped();
  return {};
}

Result<> Direction::wait(const Cancel& cancel) const {
  pollfd fds[2] = {{from_.fd(), POLLIN, 0}, {cancel.poll_fd(), POLLIN, 0}};
  timespec timeout{};
  const auto due = queue_.next_due();
  if (due) {
    const auto left = std::max<int64_t>(0, (*due - Clock::now()) / std::chrono::nanoseconds(1));
    timeout = {.tv_sec = left / 1'000'000'000, .tv_nsec = left % 1'000'000'000};
  }
  // Without a packet on its way there is no deadline: the wait ends with a packet or with cancel.
  if (retry_eintr([&] { return ::ppoll(fds, 2, due ? &timeout : nullptr, nullptr); }) < 0)
    return fail_errno(errno, "wait for packets on {}", from_.interface());
  return {};
}

Result<> Direction::take_in() {
  batch_.clear();
  TS_TRY(from_.receive(batch_));
  const auto now = Clock::now();
  for (Frame& frame : batch_) {
    counters_.bytes += frame.data.size();
    if (!lossy_) {
      counters_.segments += count_segments(frame);
      queue_.push(std::move(frame), now);
      continue;
    }
    Survivors left = drop_segments(std::move(frame), [this] { return loss_.next(); });
    counters_.segments += left.segments;
    counters_.lost += left.lost;
    for (Frame& survivor : left.frames) queue_.push(std::move(survivor), now);
  }
  return {};
}

void Direction::send_due() {
  const auto now = Clock::now();
  while (const Frame* frame = queue_.due(now)) {
    if (!to_.send(*frame)) ++counters_.refused;
    queue_.pop();
  }
}

std::string Direction::summary() const {
  return fmt::format("{} -> {}: segments={} bytes={} lost={} overflown={} refused={}", from_.interface(),
                     to_.interface(), counters_.segments, counters_.bytes, counters_.lost, counters_.overflown,
                     counters_.refused);
}

}  // namespace transship::lab
