// What pre-copy does next. A pure function of what the rounds so far have shown, so that it can be tested as a table;
// docs/memory.md explains it with an example.
//
// Model: while a round of `seconds` is sent, the tasks write. What the next round found to be dirty at its start was
// written in that time; their quotient is the dirty rate. Freezing now costs
//     gap = fixed + (dirty rate * length of the round just sent) / link rate
// since that is how much will have become dirty. Another round helps as long as the dirty rate is below the link rate:
// each one leaves rate/link of the one before.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace transship::plan {

enum class MemoryMode : uint8_t { kInvalid = 0, kAuto, kPreCopy, kPostCopy, kStopCopy };

// "auto", "pre-copy", "post-copy", "stop-copy"; kInvalid for anything else.
MemoryMode parse_memory_mode(std::string_view text);
std::string_view memory_mode_name(MemoryMode mode);

struct Round {
  uint64_t dirty_bytes = 0;       // found when it began: all memory in the first one
  uint64_t wire_bytes = 0;        // what travelled for it, after zero pages and compression
  double seconds = 0;             // from the beginning of its scan until the receiver had everything
  uint32_t throttle_percent = 0;  // in force while it was sent
};

struct ConvergeLimits {
  double max_gap_ms = 300;
  uint32_t max_rounds = 30;   // without throttling; each step of throttling allows kRoundsPerStep more
  double max_seconds = 3600;  // of copying
  bool may_throttle = true;
  bool may_post_copy = false;  // only with MemoryMode::kAuto and the user's word for it
  double fixed_ms = 0;         // of the gap: freeze, dump, restore, commit; see predict()
};

enum class ConvergeStep : uint8_t { kRound, kFreeze, kThrottle, kPostCopy, kGiveUp };

struct Convergence {
  ConvergeStep step = ConvergeStep::kRound;
  double dirty_bytes_per_second = 0;  // of memory, before compression
  double send_bytes_per_second = 0;   // of memory: the link's rate divided by what compression leaves
  double gap_ms = 0;                  // predicted when frozen now
  double eta_seconds = 0;             // until it can freeze; 0 when now or unknown
  uint32_t throttle_percent = 0;      // CPU time to take away from now on
  std::string why;                    // one clause, for the event, the log and the failure
};

// `rounds`: all so far, at least one. `throttle_percent`: what is taken away now.
Convergence converge(std::span<const Round> rounds, uint32_t throttle_percent, const ConvergeLimits& limits);

// Throttling goes 0, 20, 40 … kMaxThrottle; each step is given this many rounds to show an effect.
inline constexpr uint32_t kThrottleStep = 20;
inline constexpr uint32_t kMaxThrottle = 80;
inline constexpr uint32_t kRoundsPerStep = 3;

}  // namespace transship::plan
