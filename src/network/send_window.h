// How many packets may be sent into an interface now. Behind a TUN is a program that may wait for a processor: its
// queue is limited, and what does not fit is dropped without a word. The interface's own counters say what the program
// has taken.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/cancel.h"
#include "network/netlink.h"

namespace transship::network {

// What each interface has sent or dropped since it is there. Empty: it does not say.
using TakenCount = std::optional<uint64_t>;

// Pure: counters and time come from outside. One thread.
class SendWindow {
 public:
  // A quarter of what a tunnel's queue holds (network/tunnel.cc): there is other traffic as well.
  static constexpr size_t kMost = 1000;
  // Counters that stand still for so long do not say what was thought.
  static constexpr milliseconds kStandstill{50};

  void begin(TakenCount taken, Clock::time_point now);
  // May be sent now; kMost at most.
  size_t room(TakenCount taken, Clock::time_point now);
  void sent() { ++sent_; }

 private:
  uint64_t base_ = 0;
  uint64_t last_ = 0;
  uint64_t sent_ = 0;
  Clock::time_point moved_;
};

TakenCount taken_by(Netlink& netlink, unsigned interface);

}  // namespace transship::network
