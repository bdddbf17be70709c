// Standard input and output of a restored container that no engine looks after.
#pragma once
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace transship::gate {

// Descriptors for runc's 0, 1 and 2; where nothing is set, ours serve.
struct StandardStreams {
  Fd in;
  Fd out;
  Fd err;
};

// What was a pipe on the source must be a pipe here: a task's descriptor that leads to a file outside the container
// could not be dumped again. An engine gives us pipes as our own standard descriptors, and these are used. Where there
// is no engine (a plain bundle) input is at its end, and a process of ours appends output to `log_path` for as long as
// anybody holds the other end.
Result<StandardStreams> replace_missing_pipes(const std::string& descriptors_path, const std::string& log_path);

}  // namespace transship::gate
