// For unit tests: what a register said, as a word.
#pragma once
#include <optional>
#include <string>

#include "arbiter/arbiter.h"

namespace transship::arbiter::testing {

inline std::string said(const Result<Decision>& r) {
  return std::string(r ? state::decision_name(*r) : errc_name(r.error().code()));
}
inline std::string said(const Result<std::optional<Decision>>& r) {
  if (!r) return std::string(errc_name(r.error().code()));
  return *r ? std::string(state::decision_name(**r)) : "nothing";
}

}  // namespace transship::arbiter::testing
