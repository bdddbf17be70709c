// Datagrams that a container has been sent and has not read yet. CRIU takes the unread bytes of TCP connections along,
// but not those of UDP sockets: they are taken out of the frozen tasks' sockets and become packets again, which are
// kept with those that arrive during the gap (network/hold.h).
#pragma once
#include <sys/types.h>

#include <cstddef>
#include <vector>

#include "base/result.h"

namespace transship::network {

struct UnreadDatagrams {
  // Whole IP packets, of each socket in the order in which they came.
  std::vector<std::vector<std::byte>> packets;
  // That cannot be sent again, and are lost: to a loopback or multicast address, or over kMostUnreadBytes.
  size_t lost = 0;
};
inline constexpr size_t kMostUnreadBytes = 32U << 20;

// Of the tasks `pids`, which are frozen and whose network is shut; all in the network namespace of the first. Some
// 0.1 ms when there are none. What was taken before an error is in no socket any more: `out` has it in any case.
Result<> take_unread_datagrams(const std::vector<pid_t>& pids, UnreadDatagrams& out);

}  // namespace transship::network
