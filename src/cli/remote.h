// Commands on another host, over the operator's own ssh.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"

namespace transship::cli {

struct RemoteOutput {
  int exit_code = -1;
  std::string out;
};

// Runs `command` (for a shell there) on `target`. Errors are of ssh itself; the command's exit code is a result.
using RunRemote = std::function<Result<RemoteOutput>(const std::string& target, const std::string& command)>;

// The real one: `ssh` as the operator has configured it, its questions and messages on the terminal. Host keys are
// checked as configured; nothing is switched off.
Result<RemoteOutput> run_over_ssh(const std::string& target, const std::string& command);

// One word for a POSIX shell.
std::string shell_quote(const std::string& word);

}  // namespace transship::cli
