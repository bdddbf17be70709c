#include "network/send_window.h"

#include <algorithm>

namespace transship::network {

void SendWindow::begin(TakenCount taken, Clock::time_point now) {
  base_ = last_ = taken.value_or(0);
  sent_ = 0;
  moved_ = now;
}

size_t SendWindow::room(TakenCount taken, Clock::time_point now) {
  if (!taken) return kMost;
  if (*taken != last_) {
    last_ = *taken;
    moved_ = now;
  }
  // Other traffic is taken as well, so that this can be more than was sent.
  uint64_t gone = last_ - std::min(last_, base_);
  uint64_t waiting = sent_ - std::min(sent_, gone);
  if (waiting < kMost) return kMost - waiting;
  if (now - moved_ < kStandstill) return 0;
  begin(taken, now);
  return kMost;
}

TakenCount taken_by(Netlink& netlink, unsigned interface) {
  auto taken = netlink.link_taken(interface);
  return taken ? TakenCount(*taken) : std::nullopt;
}

}  // namespace transship::network
