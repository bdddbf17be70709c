#include "cli/exit_code.h"

namespace transship::cli {

int exit_code(Outcome outcome) {
  switch (outcome) {
    case Outcome::kDone: return 0;
    case Outcome::kFailed: return 1;
    case Outcome::kUsage: return 2;
    case Outcome::kRolledBack: return 3;
    case Outcome::kRefused: return 4;
    case Outcome::kNotConverged: return 5;
    case Outcome::kCancelled: return 130;
  }
  return 1;
}

Outcome outcome_of(const Error& error) {
  switch (error.code()) {
    case Errc::kInvalidArgument: return Outcome::kUsage;
    case Errc::kRefused: return Outcome::kRefused;
    case Errc::kCancelled: return Outcome::kCancelled;
    default: return Outcome::kFailed;
  }
}

Outcome outcome_of(const local::FailureEvent& failure) {
  if (failure.committed()) return Outcome::kFailed;
  // A cancelled move whose source does not run is a failed one, whoever asked for the end.
  bool untouched = failure.source_running() || failure.source_state().empty();
  if (failure.code() == errc_name(Errc::kCancelled) && untouched) return Outcome::kCancelled;
  // EPERM in the middle of a move is called "refused" as well; only the first two phases decide before they touch.
  bool before_copying = failure.phase().empty() || failure.phase() == "plan" || failure.phase() == "reserve";
  if (failure.code() == errc_name(Errc::kRefused) && before_copying) return Outcome::kRefused;
  if (failure.code() == errc_name(Errc::kNotConverged) && failure.source_running()) return Outcome::kNotConverged;
  if (failure.code() == errc_name(Errc::kInvalidArgument) && before_copying) return Outcome::kUsage;
  return failure.source_running() ? Outcome::kRolledBack : Outcome::kFailed;
}

std::string_view exit_code_help() {
  return "Exit codes:\n"
         "    0  done\n"
         "    1  failed\n"
         "    2  the command line is wrong\n"
         "    3  the move failed and was rolled back: the source runs\n"
         "    4  refused before anything was touched\n"
         "    5  the move gave up: memory was written faster than it could be sent\n"
         "  130  cancelled\n"
         "Take any other code for a failure.";
}

}  // namespace transship::cli
