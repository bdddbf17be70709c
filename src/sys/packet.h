// Messages with descriptors over UNIX sockets.
#pragma once
#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace transship::sys {

inline constexpr size_t kMaxPacketFds = 64;

// `fds`: lent, kMaxPacketFds at most. `flags` as of sendmsg; a socket that is closed on the other side is an error, not
// a signal. The error's errno is the system call's.
Result<> send_packet(int socket, std::string_view data, std::span<const int> fds = {}, int flags = 0);

struct ReceivedPacket {
  size_t bytes = 0;  // in the buffer; 0: the other side has closed
  std::vector<Fd> fds = {};
  bool cut = false;  // it did not fit
};
// Waits unless `flags` say otherwise. The error's errno is the system call's.
Result<ReceivedPacket> receive_packet(int socket, std::span<char> buffer, int flags = 0);

}  // namespace transship::sys
