// Putting right what CRIU leaves behind when it dies in the middle of a dump.
#pragma once
#include <sys/types.h>

#include <vector>

#include "base/result.h"

namespace transship::criu {

// Takes CRIU's lock off the network namespace of `pid` and takes the TCP sockets of `pids` out of repair mode. The
// tasks must stand still (frozen). Does as much as it can; the first failure is returned.
Result<> open_network_again(pid_t pid, const std::vector<pid_t>& pids);

// Puts the TCP connections of `pids`, which stand still, into repair mode: when they are killed their peers, who talk
// to the copy elsewhere, hear nothing of it. Does as much as it can; the first failure is returned.
Result<> mute_sockets(const std::vector<pid_t>& pids);

}  // namespace transship::criu
