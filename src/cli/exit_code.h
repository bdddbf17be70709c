// What the program's exit code says: a contract with scripts (docs/cli.md).
#pragma once
#include <string_view>

#include "base/result.h"
#include "proto/local.pb.h"

namespace transship::cli {

enum class Outcome {
  kDone,
  kFailed,
  kUsage,         // the command line, or what it asks for, is wrong as such
  kRolledBack,    // the move failed, and the source runs: that was checked
  kRefused,       // a check said no before anything was touched
  kNotConverged,  // memory was written faster than it could be sent
  kCancelled,
};

int exit_code(Outcome outcome);
Outcome outcome_of(const Error& error);
Outcome outcome_of(const local::FailureEvent& failure);

// The table that every --help ends with.
std::string_view exit_code_help();

}  // namespace transship::cli
