// The register of decisions that outlives both hosts of a move (docs/design/0010-handover.md): who writes first has
// decided, and the source is known to be there by a lease.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "base/cancel.h"
#include "base/result.h"
#include "state/store.h"

namespace transship::arbiter {

using state::Decision;

// Nobody answered: what was asked for may have been done, or be done a little later. The only meaning that this code
// has here and in migrate/decision_register.h.
inline constexpr Errc kOutcomeUnknown = Errc::kTimeout;

// The source of a move is there, as long as this lives and the arbiter hears of it. Thread-safe.
class SourceHold {
 public:
  // Gives it up at once.
  virtual ~SourceHold() = default;
  // kUnavailable: the arbiter has not heard of it for most of the lease's time. Says nothing of any decision.
  virtual Result<> check() const = 0;
};

struct Health {
  std::string identity;  // the same on two nodes: the same register
  milliseconds latency{0};
};

// Thread-safe. Every call ends by its deadline (and a little), or with kCancelled.
class Arbiter {
 public:
  virtual ~Arbiter() = default;

  // What stands afterwards: `wanted`, or what somebody else had written before. kOutcomeUnknown: nobody answered, so
  // that `wanted` may have been written, or be written a little later. It is never a no.
  virtual Result<Decision> decide(const std::string& move_id, Decision wanted, Deadline deadline,
                                  const Cancel& cancel) = 0;
  // What stands, by a majority. nullopt: nothing yet.
  virtual Result<std::optional<Decision>> decision(const std::string& move_id, Deadline deadline,
                                                   const Cancel& cancel) = 0;
  // For a source, before the destination may become able to run the container.
  virtual Result<std::unique_ptr<SourceHold>> hold_source(const std::string& move_id, Deadline deadline,
                                                          const Cancel& cancel) = 0;
  // For a parked destination: when the source is not held and nothing is decided, `wanted` is written, in one step:
  // *commit* if it has all memory, *abort* if that is gone with the source. What stands afterwards; nullopt: nothing,
  // the source is held. kOutcomeUnknown as above.
  virtual Result<std::optional<Decision>> take_over(const std::string& move_id, Decision wanted, Deadline deadline,
                                                    const Cancel& cancel) = 0;
  // Both sides have ended the move for good: what stands is forgotten after kRemembered.
  virtual Result<> retire(const std::string& move_id, Deadline deadline, const Cancel& cancel) = 0;
  // Does a majority answer?
  virtual Result<Health> check(Deadline deadline, const Cancel& cancel) = 0;
};

// Somebody with a clock that is wrong, or who comes back from a long holiday, still finds it.
inline constexpr std::chrono::hours kRemembered{30 * 24};

}  // namespace transship::arbiter
