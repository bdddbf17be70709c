// Which ports of this host are taken.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"

namespace transship::engine {

struct Listener {
  std::string protocol;  // "tcp", "udp"
  std::string ip;        // empty: every address
  uint16_t port = 0;
};

// One of /proc/net/{tcp,tcp6,udp,udp6}. TCP: those that listen; UDP: every bound socket.
Result<std::vector<Listener>> parse_proc_net(const std::string& text, const std::string& protocol);
// All four of this network namespace. `proc_net`: another directory, for tests.
Result<std::vector<Listener>> listeners(const std::string& proc_net = "/proc/net");
// Would publishing `wanted` fail because of `taken`?
bool overlaps(const HostPort& wanted, const Listener& taken);

}  // namespace transship::engine
