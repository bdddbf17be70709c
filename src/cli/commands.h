// Runs one parsed command: asks the daemon, renders the answer, says with which code to end.
#pragma once
#include <functional>
#include <memory>

#include "base/fd.h"
#include "cli/args.h"
#include "cli/daemon.h"
#include "cli/exit_code.h"
#include "cli/peer_add.h"
#include "cli/terminal.h"

namespace transship::cli {

// The world outside, so that tests can bring their own.
struct Environment {
  const Screen& out;
  const Screen& err;
  std::function<std::unique_ptr<Daemon>(const std::string& socket)> connect;
  std::function<Result<Fd>()> watch_signals;
  std::function<void(Outcome)> leave_now;
  std::function<std::optional<std::string>(const std::string& prompt)> ask;
  RunRemote run_remote;
};

Outcome run_command(const Environment& environment, const Arguments& arguments);

}  // namespace transship::cli
