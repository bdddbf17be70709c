// Which packets a lossy link loses: each one by itself, with the same probability, from a seed.
#pragma once
#include <cstdint>

namespace transship::lab {

// One thread. The same seed and probability give the same losses.
class Loss {
 public:
  // probability: 0 loses nothing, 1 everything.
  Loss(double probability, uint64_t seed);
  // True if the next packet is lost.
  bool next();

 private:
  void draw_gap();

  double probability_;
  uint64_t state_;
  // Packets that still get through before the next loss. Drawing the gap costs one random number per loss, not per
  // packet.
  uint64_t gap_ = 0;
};

}  // namespace transship::lab
