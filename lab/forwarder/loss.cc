#include "forwarder/loss.h"

#include <cmath>
#include <limits>

namespace transship::lab {
namespace {

// splitmix64: small, seeded, and the same on every machine.
uint64_t next_random(uint64_t& state) {
  state += 0x9e3779b97f4a7c15U;
  uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31);
}

}  // namespace

Loss::Loss(double probability, uint64_t seed) : probability_(probability), state_(seed) { draw_gap(); }

bool Loss::next() {
  if (gap_ > 0) {
    --gap_;
    return false;
  }
  draw_gap();
  return true;
}

// The number of packets between two losses has a geometric distribution.
void Loss::draw_gap() {
  constexpr auto kNever = std::numeric_limits<uint64_t>::max();
  if (probability_ <= 0) {
    gap_ = kNever;
    return;
  }
  if (probability_ >= 1) {
    gap_ = 0;
    return;
  }
  const double uniform = (static_cast<double>(next_random(state_) >> 11) + 0.5) * 0x1.0p-53;  // in (0, 1)
  const double gap = std::floor(std::log(uniform) / std::log1p(-probability_));
  gap_ = gap < 1e18 ? static_cast<uint64_t>(gap) : kNever;
}

}  // namespace transship::lab
