#include "forwarder/loss.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace transship::lab {
namespace {

int count_losses(double probability, uint64_t seed, int packets) {
  Loss loss(probability, seed);
  int lost = 0;
  for (int i = 0; i < packets; ++i) lost += loss.next() ? 1 : 0;
  return lost;
}

TEST(Loss, ZeroLosesNothingAndOneLosesAll) {
  EXPECT_EQ(count_losses(0.0, 1, 100'000), 0);
  EXPECT_EQ(count_losses(1.0, 1, 100'000), 100'000);
}

TEST(Loss, LosesTheShareThatWasAsked) {
  for (double p : {0.001, 0.01, 0.1, 0.5, 0.9}) {
    for (uint64_t seed : {1U, 7U, 1234U}) {
      constexpr int kPackets = 1'000'000;
      const double sigma = std::sqrt(kPackets * p * (1 - p));
      EXPECT_NEAR(count_losses(p, seed, kPackets), kPackets * p, 5 * sigma) << "p=" << p << " seed=" << seed;
    }
  }
}

TEST(Loss, SameSeedSameLossesOtherSeedOthers) {
  Loss a(0.1, 42);
  Loss b(0.1, 42);
  Loss c(0.1, 43);
  bool differs = false;
  for (int i = 0; i < 10'000; ++i) {
    const bool lost = a.next();
    ASSERT_EQ(lost, b.next()) << "packet " << i;
    differs |= lost != c.next();
  }
  EXPECT_TRUE(differs);
}

TEST(Loss, LossesAreIndependent) {
  // After a loss the next packet is lost as often as any other.
  Loss loss(0.2, 5);
  int losses = 0;
  int pairs = 0;
  bool previous = false;
  for (int i = 0; i < 500'000; ++i) {
    const bool lost = loss.next();
    losses += lost ? 1 : 0;
    pairs += lost && previous ? 1 : 0;
    previous = lost;
  }
  EXPECT_NEAR(static_cast<double>(pairs) / losses, 0.2, 0.01);
}

}  // namespace
}  // namespace transship::lab
