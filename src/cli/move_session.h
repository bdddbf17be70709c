// Follows one move to its end, and turns Ctrl-C into a request to cancel.
//
//            first signal                 second signal
//   moving ---------------> cancelling ------------------> left (the daemon cancels unless it is too late)
//      \                        |
//       `-----------------------+--- summary, failure, or the daemon is gone ---> ended
#pragma once
#include <functional>

#include "base/cancel.h"
#include "base/fd.h"
#include "cli/daemon.h"
#include "cli/move_render.h"

namespace transship::cli {

struct MoveSession {
  Daemon& daemon;
  MoveRenderer& renderer;
  // Readable when SIGINT or SIGTERM came: a signalfd. Borrowed.
  int signals = -1;
  // Ends the process; called for the second signal, when a call that hangs must not keep us. Tests only note it.
  std::function<void(Outcome)> leave_now = {};
  // Without an event for so long the daemon is asked whether it is still there.
  milliseconds quiet = milliseconds(60'000);
};

// `request.detach()`: returns once the destination has reserved, and the move goes on.
Outcome follow_move(const MoveSession& session, const local::MoveRequest& request);

// Blocks SIGINT and SIGTERM for this thread and all that it starts, and gives the descriptor that reports them.
Result<Fd> watch_signals();

}  // namespace transship::cli
