// Is an IPv6 address there? Asked by ICMP echo, in process.
#pragma once
#include <chrono>

#include "base/cancel.h"
#include "base/result.h"
#include "network/address.h"

namespace transship::network {

// The time until the first answer. Asks again every 250 ms until `deadline` (kTimeout).
Result<std::chrono::microseconds> ping(const IpAddress& from, const IpAddress& to, Deadline deadline,
                                       const Cancel& cancel);

}  // namespace transship::network
