// Whether tasks that exist have no more than they were to get. By what the kernel says of them, not by what anybody
// asked for. Changes nothing.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace transship::sys {

struct Confinement {
  uint64_t capabilities = 0;  // bit N: number N
  bool seccomp = true;        // some filter
  bool no_new_privileges = false;
  // Namespaces that are not the host's, as in /proc/PID/ns: "net", "pid"… The others must be.
  std::vector<std::string> own_namespaces = {};
  // A file that stands for its network namespace; empty: any of its own.
  std::string network_path = {};
  std::string apparmor_profile = {};  // empty: not looked at
};

// The bit of "CAP_NET_ADMIN" or "NET_ADMIN"; 0: there is no such capability. "ALL": every one.
uint64_t capability_mask(std::string_view name);

// kRefused says which task has what. A task that ends meanwhile is skipped; not so `init`.
Result<> check_confinement(pid_t init, const std::vector<pid_t>& pids, const Confinement& wanted,
                           const std::string& proc = "/proc");

}  // namespace transship::sys
