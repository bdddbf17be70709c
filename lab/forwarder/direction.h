// One direction of a link: packets from one interface to the other, later, and not all of them.
#pragma once
#include <atomic>
#include <cstdint>
#include <string>

#include "base/cancel.h"
#include "forwarder/delay_queue.h"
#include "forwarder/loss.h"
#include "forwarder/packet_socket.h"

namespace transship::lab {

struct Wire {
  std::chrono::microseconds delay{0};
  double loss = 0;  // 0 to 1, of wire segments
  uint64_t seed = 1;
  size_t queue_bytes = 0;
};

// What went through; read after run() has ended.
struct Counters {
  uint64_t segments = 0;
  uint64_t bytes = 0;
  uint64_t lost = 0;       // on purpose
  uint64_t overflown = 0;  // packets that did not fit into the queue
  uint64_t refused = 0;    // packets the interface did not take
};

// One thread runs it.
class Direction {
 public:
  Direction(PacketSocket& from, PacketSocket& to, const Wire& wire);
  // Forwards until cancelled. What is under way then is lost.
  Result<> run(const Cancel& cancel);
  const Counters& counters() const { return counters_; }
  std::string summary() const;

 private:
  Result<> take_in();
  void send_due();
  Result<> wait(const Cancel& cancel) const;

  PacketSocket& from_;
  PacketSocket& to_;
  bool lossy_;
  Loss loss_;
  DelayQueue queue_;
  Counters counters_;
  std::vector<Frame> batch_;
};

}  // namespace transship::lab
