// A move is a list of phases; what failed is undone newest first.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"

namespace transship::migrate {

struct Phase {
  std::string name;
  std::function<Result<>()> run;
  std::function<void()> undo = {};  // idempotent, cannot fail: logs instead; called for the phase that failed as well
  bool final = false;               // the commit: once it has succeeded nothing is undone any more
};

struct PhaseOutcome {
  Result<> result;
  std::string failed;  // name of the phase that failed
  bool committed = false;
};

// Runs phases in order. A failure before the end of the `final` phase undoes the failing one and all before it, newest
// first; after it nothing is undone. `before` is told each phase's name before it runs.
inline PhaseOutcome run_phases(std::vector<Phase>& phases, const std::function<Result<>(const std::string&)>& before) {
  PhaseOutcome outcome;
  for (size_t i = 0; i < phases.size(); ++i) {
    auto r = before(phases[i].name);
    if (r) r = phases[i].run();
    if (!r) {
      outcome.result = std::move(r);
      outcome.failed = phases[i].name;
      for (size_t k = i + 1; !outcome.committed && k-- > 0;) {
        if (phases[k].undo) phases[k].undo();
      }
      return outcome;
    }
    outcome.committed = outcome.committed || phases[i].final;
  }
  return outcome;
}

}  // namespace transship::migrate
