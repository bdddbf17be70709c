// Whether a DNS server answers at all.
#pragma once
#include "base/cancel.h"
#include "base/result.h"
#include "network/address.h"

namespace transship::names {

// One question over UDP, for the addresses of `name` (labels with dots). Any answer to it is a success.
Result<> probe_dns(const network::IpAddress& server, const std::string& name, milliseconds limit);

}  // namespace transship::names
