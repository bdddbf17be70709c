#include "plan/converge.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

namespace transship::plan {
namespace {

constexpr std::array<std::pair<std::string_view, MemoryMode>, 4> kModes{{{"auto", MemoryMode::kAuto},
                                                                         {"pre-copy", MemoryMode::kPreCopy},
                                                                         {"post-copy", MemoryMode::kPostCopy},
                                                                         {"stop-copy", MemoryMode::kStopCopy}}};

// A round that would take less than this off the gap is not worth its time and the page faults that it causes.
constexpr double kWorthMs = 8;
// Rounds are never shorter than their scan and one round trip, so a dirty rate seen in a very short one says little.
constexpr double kShortSeconds = 0.02;
// Above this the rest hardly shrinks from round to round.
constexpr double kStuckRatio = 0.85;

struct Rates {
  double dirty = 0;  // bytes of memory per second
  double send = 0;   // the same
  double left = 0;   // bytes that are dirty now, as far as can be told
};

Rates rates_of(std::span<const Round> rounds) {
  const Round& last = rounds.back();
  Rates r;
  r.send = static_cast<double>(last.dirty_bytes) / std::max(last.seconds, 0.001);
  // A tiny round measures the round trip and a busy CPU, not the link: the fastest one is what the link carries.
  for (const auto& round : rounds)
    r.send = std::max(r.send, static_cast<double>(round.dirty_bytes) / std::max(round.seconds, 0.001));
  if (rounds.size() < 2) {
    // Nothing is known of the writer yet. As much as the whole round: one more round has to be made.
    r.dirty = r.send;
    r.left = static_cast<double>(last.dirty_bytes);
    return r;
  }
  double before = rounds[rounds.size() - 2].seconds;
  r.dirty = static_cast<double>(last.dirty_bytes) / std::max(before, kShortSeconds);
  // Writes to pages that are dirty already add nothing, so a longer round does not have proportionally more.
  double scale = std::min(last.seconds / std::max(before, 0.001), 1.0);
  double in_proportion = static_cast<double>(last.dirty_bytes) * scale;
  double at_rate = r.dirty * last.seconds;
  r.left = std::min(std::max(in_proportion, 0.0), std::max(at_rate, 0.0));
  if (last.seconds > before) r.left = at_rate;
  return r;
}

bool stuck(std::span<const Round> rounds, uint32_t throttle_percent) {
  size_t wanted = throttle_percent == 0 ? 3 : kRoundsPerStep;
  if (rounds.size() < wanted + 1) return false;
  auto recent = rounds.last(wanted);
  // A step is judged by the rounds that were made under it.
  if (std::ranges::any_of(recent, [&](const Round& r) { return r.throttle_percent != throttle_percent; })) return false;
  double first = static_cast<double>(recent.front().dirty_bytes);
  double last = static_cast<double>(recent.back().dirty_bytes);
  return first > 0 && last > first * kStuckRatio;
}

// Rounds have a shortest length, and with it comes a smallest dirty set: there is nothing to gain below.
bool shrinking(std::span<const Round> rounds) {
  auto last_two = rounds.last(2);
  return static_cast<double>(last_two[1].dirty_bytes) < static_cast<double>(last_two[0].dirty_bytes) * kStuckRatio;
}

// How long rounds go on until the gap is small enough, if every round leaves `ratio` of the one before.
double eta_seconds(const Rates& r, double allowed_bytes) {
  double ratio = r.send > 0 ? r.dirty / r.send : 1;
  double left = r.left;
  double seconds = 0;
  for (int i = 0; i < 64 && left > allowed_bytes; ++i) {
    if (ratio >= 1) return 0;
    seconds += left / r.send;
    left *= ratio;
  }
  return seconds;
}

Convergence slow_down(Convergence c, uint32_t throttle_percent, const ConvergeLimits& limits) {
  std::string reason = fmt::format(
      "{:.1f} MiB/s are written and {:.1f} MiB/s can be sent: a gap of {:.0f} ms instead of {:.0f} ms",
      c.dirty_bytes_per_second / (1 << 20), c.send_bytes_per_second / (1 << 20), c.gap_ms, limits.max_gap_ms);
  if (limits.may_throttle && throttle_percent < kMaxThrottle) {
    c.step = ConvergeStep::kThrottle;
    c.throttle_percent = std::min(throttle_percent + kThrottleStep, kMaxThrottle);
    c.why = fmt::format("{}; it gets {} % less CPU time", reason, c.throttle_percent);
  } else if (limits.may_post_copy) {
    c.step = ConvergeStep::kPostCopy;
    c.why = reason + "; the rest follows after the switch";
  } else {
    c.step = ConvergeStep::kGiveUp;
    c.why = throttle_percent == 0 ? reason : fmt::format("{}, with {} % less CPU time", reason, throttle_percent);
  }
  return c;
}

}  // namespace

MemoryMode parse_memory_mode(std::string_view text) {
  const auto* it = std::ranges::find(kModes, text, &decltype(kModes)::value_type::first);
  return it == kModes.end() ? MemoryMode::kInvalid : it->second;
}

std::string_view memory_mode_name(MemoryMode mode) {
  const auto* it = std::ranges::find(kModes, mode, &decltype(kModes)::value_type::second);
  return it == kModes.end() ? "invalid" : it->first;
}

Convergence converge(std::span<const Round> rounds, uint32_t throttle_percent, const ConvergeLimits& limits) {
  Convergence c;
  c.throttle_percent = throttle_percent;
  Rates r = rates_of(rounds);
  c.dirty_bytes_per_second = r.dirty;
  c.send_bytes_per_second = r.send;
  double left_ms = r.send > 0 ? r.left / r.send * 1000 : 0;
  c.gap_ms = limits.fixed_ms + left_ms;
  double ratio = r.send > 0 ? r.dirty / r.send : 1;
  double allowed = std::max(0.0, (limits.max_gap_ms - limits.fixed_ms) / 1000 * r.send);
  c.eta_seconds = eta_seconds(r, allowed);
  double seconds = 0;
  for (const auto& round : rounds) seconds += round.seconds;
  size_t max_rounds = limits.max_rounds + kRoundsPerStep * (throttle_percent / kThrottleStep);
  bool over = rounds.size() >= max_rounds || seconds >= limits.max_seconds;

  if (limits.fixed_ms > limits.max_gap_ms) {
    c.step = ConvergeStep::kGiveUp;
    c.why = fmt::format("freeze, dump, restore and commit alone take {:.0f} ms here, more than the {:.0f} ms allowed",
                        limits.fixed_ms, limits.max_gap_ms);
    return c;
  }
  if (c.gap_ms <= limits.max_gap_ms) {
    // Small enough; better still if that costs little.
    double saves = left_ms * (1 - std::min(ratio, 1.0));
    bool better = rounds.size() >= 2 ? saves > kWorthMs && shrinking(rounds) : left_ms > kWorthMs;
    if (!better || over) {
      c.step = ConvergeStep::kFreeze;
      c.why = fmt::format("a gap of {:.0f} ms", c.gap_ms);
      return c;
    }
    c.why = fmt::format("a gap of {:.0f} ms already, and the next round takes {:.0f} ms off", c.gap_ms, saves);
    return c;
  }
  if (over || stuck(rounds, throttle_percent)) return slow_down(std::move(c), throttle_percent, limits);
  c.why = fmt::format("a gap of {:.0f} ms would be too long", c.gap_ms);
  return c;
}

}  // namespace transship::plan
