// A piece of work that goes on to its end when this process is killed.
#pragma once
#include <functional>

#include "base/result.h"

namespace transship::sys {

// Runs `work` in a process of its own that shares all our memory and descriptors, and waits for its end. A SIGKILL to
// us ends all our threads but not that process: it finishes first. The calling thread stands still meanwhile, and lends
// its stack-local state (errno and the like); so this is clone(2) as posix_spawn(3) does it. The process is named
// "ts-apart".
//
// Rules for what must not be cut off: no memory from the heap and no lock, since their holder may be a thread that was
// just killed. As a net under that the process is killed after `seconds`. What kills it early (the kernel without
// memory, somebody who looks for processes of our name) is an error here.
Result<> run_apart(const std::function<void()>& work, unsigned seconds);

}  // namespace transship::sys
