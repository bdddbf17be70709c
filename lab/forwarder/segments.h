// A packet of the kernel's segmentation offload stands for many packets on the wire. Loss must hit those, not all at
// once.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "forwarder/frame.h"

namespace transship::lab {

struct Survivors {
  std::vector<Frame> frames;  // in order; none if everything was lost
  uint64_t segments = 0;      // on the wire, lost ones included
  uint64_t lost = 0;
};

// Asks `lost` once for each wire segment, and cuts the lost ones out: runs of segments that survive stay one packet
// each. A packet that cannot be taken apart (not TCP or UDP over IP, or with odd headers) counts as one segment.
Survivors drop_segments(Frame frame, const std::function<bool()>& lost);

// How many wire segments a packet stands for.
uint64_t count_segments(const Frame& frame);

}  // namespace transship::lab
