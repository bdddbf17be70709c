#include "plan/converge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace transship::plan {
namespace {

constexpr double kMiB = 1 << 20;
constexpr double kLink = 112 * kMiB;  // bytes per second of a 1 Gbit/s link

Round round_of(double mib, double seconds) {
  return {static_cast<uint64_t>(mib * kMiB), static_cast<uint64_t>(mib * kMiB), seconds};
}

TEST(Converge, ModesHaveNames) {
  for (auto mode : {MemoryMode::kAuto, MemoryMode::kPreCopy, MemoryMode::kPostCopy, MemoryMode::kStopCopy})
    EXPECT_EQ(parse_memory_mode(memory_mode_name(mode)), mode);
  EXPECT_EQ(parse_memory_mode("precopy"), MemoryMode::kInvalid);
  EXPECT_EQ(parse_memory_mode(""), MemoryMode::kInvalid);
}

struct Row {
  const char* name;
  std::vector<Round> rounds;
  uint32_t throttle;
  bool may_throttle;
  bool may_post_copy;
  double fixed_ms;
  ConvergeStep step;
};

class ConvergeTable : public testing::TestWithParam<Row> {};

TEST_P(ConvergeTable, Decides) {
  const Row& row = GetParam();
  auto rounds = row.rounds;
  for (auto& round : rounds) round.throttle_percent = row.throttle;
  ConvergeLimits limits;
  limits.fixed_ms = row.fixed_ms;
  limits.may_throttle = row.may_throttle;
  limits.may_post_copy = row.may_post_copy;
  auto c = converge(rounds, row.throttle, limits);
  EXPECT_EQ(c.step, row.step) << c.why << " gap " << c.gap_ms << " dirty " << c.dirty_bytes_per_second / kMiB;
  EXPECT_FALSE(c.why.empty());
}

const std::vector<Round> kStuckRounds = {round_of(1024, 9), round_of(900, 8), round_of(880, 7.9), round_of(870, 7.8),
                                         round_of(872, 7.8)};

INSTANTIATE_TEST_SUITE_P(
    Rows, ConvergeTable,
    testing::Values(
        Row{"first round of a large process: nothing is known",
            {round_of(1024, 9)},
            0,
            true,
            false,
            100,
            ConvergeStep::kRound},
        Row{"tiny process: one round is enough", {round_of(0.5, 0.006)}, 0, true, false, 100, ConvergeStep::kFreeze},
        Row{"idle: the second round found nothing",
            {round_of(1024, 9), round_of(0.1, 0.02)},
            0,
            true,
            false,
            100,
            ConvergeStep::kFreeze},
        Row{"busy: still far too much",
            {round_of(1024, 9), round_of(360, 3.2)},
            0,
            true,
            false,
            100,
            ConvergeStep::kRound},
        Row{"within the limit, but one more round pays",
            {round_of(360, 3.2), round_of(40, 0.36), round_of(14, 0.125)},
            0,
            true,
            false,
            100,
            ConvergeStep::kRound},
        Row{"another round would not pay",
            {round_of(14, 0.125), round_of(5, 0.045), round_of(1.2, 0.02)},
            0,
            true,
            false,
            100,
            ConvergeStep::kFreeze},
        Row{"never converges: slow it down", kStuckRounds, 0, true, false, 100, ConvergeStep::kThrottle},
        Row{"never converges, must not be slowed down, may follow", kStuckRounds, 0, false, true, 100,
            ConvergeStep::kPostCopy},
        Row{"never converges, nothing allowed", kStuckRounds, 0, false, false, 100, ConvergeStep::kGiveUp},
        Row{"slowed down all the way", kStuckRounds, kMaxThrottle, true, false, 100, ConvergeStep::kGiveUp},
        Row{"slowed down all the way, may follow", kStuckRounds, kMaxThrottle, true, true, 100,
            ConvergeStep::kPostCopy},
        Row{"fixed costs alone are too much", {round_of(1, 0.01)}, 0, true, true, 301, ConvergeStep::kGiveUp}),
    [](const auto& row) { return "row" + std::to_string(row.index); });

// A writer of that many MiB/s over a working set, and a link: rounds are made as the function says until it stops.
Convergence play(double size_mib, double write_mib_s, double working_set_mib, const ConvergeLimits& limits,
                 size_t* rounds_made = nullptr) {
  std::vector<Round> rounds;
  uint32_t throttle = 0;
  double dirty = size_mib;
  Convergence c;
  for (int i = 0; i < 500; ++i) {
    double seconds = 0.004 + dirty * kMiB / kLink;
    rounds.push_back(round_of(dirty, seconds));
    rounds.back().throttle_percent = throttle;
    double rate = write_mib_s * (100 - throttle) / 100;
    dirty = working_set_mib * (1 - std::exp(-rate * seconds / working_set_mib));
    c = converge(rounds, throttle, limits);
    throttle = c.throttle_percent;
    if (c.step != ConvergeStep::kRound && c.step != ConvergeStep::kThrottle) break;
  }
  if (rounds_made != nullptr) *rounds_made = rounds.size();
  // What would really have been dirty.
  if (c.step == ConvergeStep::kFreeze) {
    EXPECT_LE(limits.fixed_ms + dirty * kMiB / kLink * 1000, limits.max_gap_ms * 1.1);
  }
  return c;
}

TEST(Converge, EndsForEveryWriter) {
  ConvergeLimits limits;
  limits.fixed_ms = 100;
  for (double size : {1.0, 64.0, 1024.0, 4096.0, 65536.0}) {
    for (double rate : {0.0, 1.0, 40.0, 90.0, 111.0, 150.0, 600.0, 1000.0, 100000.0}) {
      size_t made = 0;
      auto c = play(size, rate, std::max(size * 0.2, 0.5), limits, &made);
      EXPECT_TRUE(c.step == ConvergeStep::kFreeze || c.step == ConvergeStep::kGiveUp) << size << " " << rate;
      EXPECT_LE(made, limits.max_rounds + kRoundsPerStep * 5 + 5) << size << " " << rate;
    }
  }
}

TEST(Converge, SlowWritersAlwaysFreezeWithASmallGap) {
  ConvergeLimits limits;
  limits.fixed_ms = 100;
  for (double size : {64.0, 1024.0, 4096.0}) {
    for (double rate : {0.0, 5.0, 40.0}) {
      auto c = play(size, rate, size * 0.2, limits);
      EXPECT_EQ(c.step, ConvergeStep::kFreeze) << size << " " << rate << ": " << c.why;
      EXPECT_LE(c.gap_ms, 125) << size << " " << rate << ": " << c.why;
    }
  }
}

TEST(Converge, AFastWriterIsSlowedDownUntilItFits) {
  ConvergeLimits limits;
  limits.fixed_ms = 100;
  auto c = play(4096, 200, 2048, limits);
  EXPECT_EQ(c.step, ConvergeStep::kFreeze) << c.why;
  EXPECT_GT(c.throttle_percent, 0U);
}

TEST(Converge, EachStepOfThrottlingIsGivenTime) {
  ConvergeLimits limits;
  limits.fixed_ms = 100;
  auto rounds = kStuckRounds;
  EXPECT_EQ(converge(rounds, 0, limits).step, ConvergeStep::kThrottle);
  for (uint32_t i = 0; i < kRoundsPerStep; ++i) {
    EXPECT_EQ(converge(rounds, kThrottleStep, limits).step, ConvergeStep::kRound) << i;
    rounds.push_back(round_of(870, 7.8));
    rounds.back().throttle_percent = kThrottleStep;
  }
  EXPECT_EQ(converge(rounds, kThrottleStep, limits).step, ConvergeStep::kThrottle);
}

TEST(Converge, TinyRoundsSayNothingOfTheLink) {
  // A Redis with 5,000 SET/s: rounds of 30 ms find 2 MiB each, however often they are repeated.
  std::vector<Round> rounds = {round_of(1126, 10), round_of(260, 2.3), round_of(100, 0.9)};
  for (int i = 0; i < 6; ++i) rounds.push_back(round_of(2, 0.035));
  ConvergeLimits limits;
  limits.fixed_ms = 204;
  auto c = converge(rounds, 0, limits);
  EXPECT_EQ(c.step, ConvergeStep::kFreeze) << c.why;
  EXPECT_LT(c.gap_ms, 240);
}

TEST(Converge, TheEtaShrinks) {
  std::vector<Round> rounds = {round_of(4096, 36.6), round_of(1400, 12.5)};
  ConvergeLimits limits;
  auto early = converge(rounds, 0, limits);
  rounds.push_back(round_of(480, 4.3));
  auto late = converge(rounds, 0, limits);
  EXPECT_GT(early.eta_seconds, late.eta_seconds);
  EXPECT_GT(late.eta_seconds, 0);
}

}  // namespace
}  // namespace transship::plan
