#pragma once
#include "base/fd.h"

namespace transship::sys {

// CRIU stops tasks with hardware breakpoints. The first user of the kernel's performance events on an idle machine
// waits there for all processors to pass a quiet state (synchronize_rcu: 12 to 20 ms measured), and so would CRIU, once
// per process, while the container stands still. As long as the descriptor is open there is another user: an event of
// the calling thread that never counts. To be called where waiting does not matter. Not valid where the kernel has no
// such events, or does not let us: then it takes that much longer.
Fd hold_breakpoints();

}  // namespace transship::sys
