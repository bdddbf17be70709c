// What a program answers to --version.
#pragma once
#include <string>

#include "sys/process.h"

namespace transship::sys {

// Its whole output. Starting a program costs 15 to 50 ms, so it is asked again only when the file that `program` (a
// path, or a name in PATH) leads to has changed. Thread-safe. Failures are not remembered.
Result<std::string> version_output(const std::string& program, Deadline deadline);

// Changes whenever the program's file does; for what else of a program is worth remembering. Empty: not found.
std::string program_identity(const std::string& program);

}  // namespace transship::sys
