// What CRIU's own log says about a failure, and what a person can do about it. Immutable functions.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace transship::criu {

// The lines of a CRIU log that are errors, without those known to be harmless and without repetitions: the cause first,
// its consequences after it. At most `limit` lines (the first ones and the last one). Empty when the file is not there.
std::vector<std::string> error_lines(const std::string& log_path, size_t limit = 8);
std::vector<std::string> error_lines_in(std::string_view log, size_t limit = 8);

// What the known messages mean and what to do; empty for lines that we do not know.
std::string remedy_for(const std::vector<std::string>& lines);

// `what` failed and CRIU's log is at `log_path`: an error that quotes it. `fallback` says what is known otherwise.
Error error_from_log(Errc code, std::string_view what, const std::string& log_path, std::string_view fallback);

}  // namespace transship::criu
