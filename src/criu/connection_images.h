// TCP connections that are not to be restored: the container gets another address, and a connection is bound to its
// addresses. CRIU's own option for this (tcp_close) ends the container's connections to itself as well, and changes
// the dump. Here the images are changed where they are restored, and CRIU sees sockets that are at their end.
#pragma once
#include <cstdint>
#include <string>

#include "base/result.h"

namespace transship::criu {

struct EndedConnections {
  uint32_t ended = 0;    // TCP; a program that reads from one finds its end, one that writes gets EPIPE
  uint32_t kept = 0;     // TCP over loopback
  uint32_t unbound = 0;  // connected UDP sockets: their own address is chosen anew
};

// On the destination, before the restore. Takes images from a peer. After a failure the directory is of no use any
// more.
Result<EndedConnections> end_connections(const std::string& images_dir);

}  // namespace transship::criu
