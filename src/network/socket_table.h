// The kernel's tables of sockets, as /proc/PID/net/{tcp,tcp6,udp,udp6} print them.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"

namespace transship::network {

// For each socket its first `fields` words; lines that have fewer are left out. A kernel without IPv6 has no table of
// it, which is fine. The first error of `work` ends it.
Result<> each_socket(const std::string& path, size_t fields,
                     const std::function<Result<>(const std::vector<std::string>& words)>& work);

}  // namespace transship::network
