// The TCP connections that a container has on a host which it leaves for another address: they cannot go along, so
// their other ends are told, at once and properly.
//
// The tasks are frozen, CRIU has left the sockets in repair mode (in which a socket goes without a word), and the
// container belongs to another host: nobody reads from these sockets any more.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/fd.h"
#include "base/result.h"

namespace transship::network {

// One thread at a time. Keeps copies of the sockets, so it does not matter when the tasks go; as long as it has them a
// socket that a task closes stays open: let go of it before the tasks run again.
class OldConnections {
 public:
  // Of these processes: all connections but those over loopback, and what listens. Requires tasks that stand still.
  // What could not be had is said by missed().
  static OldConnections take(const std::vector<pid_t>& pids);
  OldConnections() = default;
  OldConnections(OldConnections&&) = default;
  OldConnections& operator=(OldConnections&&) = default;

  // Requires an open network. Nobody can connect from here on. What had been written is sent, and then the end of the
  // connection, so that a client which reads sees that end and no error; `limit` later, or when everybody has
  // acknowledged that, what is left of it is reset: a client that only writes learns of it as well.
  // Returns how many connections that were.
  uint32_t end(milliseconds limit);

  size_t size() const { return connections_.size(); }
  const std::string& missed() const { return missed_; }  // a sentence; empty: nothing

 private:
  std::vector<Fd> connections_;
  std::vector<Fd> listeners_;
  std::string missed_;
};

}  // namespace transship::network
