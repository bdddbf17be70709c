// Who is connected to whom by UNIX sockets, from the kernel's socket diagnostics.
#pragma once
#include <cstdint>
#include <map>
#include <string>

#include "base/result.h"

namespace transship::sys {

struct UnixSocket {
  uint64_t peer_inode = 0;  // 0: not connected, or the other end is closed
  std::string name;         // path; "@name" for the abstract namespace; empty: unbound
};

// All UNIX sockets of one network namespace, by inode. `net_namespace`: "/proc/PID/ns/net"; entering another one than
// our own needs CAP_SYS_ADMIN, and is done in a thread of its own that ends with the call. At most 2 s.
Result<std::map<uint64_t, UnixSocket>> unix_sockets(const std::string& net_namespace = "/proc/self/ns/net");

}  // namespace transship::sys
