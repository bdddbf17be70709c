// OpenSSL's view of a socket of ours. Its own one raises SIGPIPE and counts nothing. For wire/'s own sources only.
#pragma once
#include <openssl/bio.h>

#include <atomic>
#include <cstdint>

namespace transship::wire {

struct SocketCounters {
  // Other threads read it for the progress display.
  std::atomic<uint64_t> written = 0;
  int error = 0;  // errno of the last call that failed for good
};

// Borrows both; they outlive the BIO. nullptr when memory is out.
BIO* make_socket_bio(int fd, SocketCounters& counters);

}  // namespace transship::wire
