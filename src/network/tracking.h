// What connection tracking remembers of containers.
#pragma once
#include <cstddef>
#include <vector>

#include "base/result.h"
#include "network/address.h"

namespace transship::network {

// Forgets every connection from or to one of the addresses, as they are on either side of a translation. Of a container
// that has left this host for good: its connections are others' from now on, and would stay in the table for days.
// Those in a zone are an entry's, through which they go on wherever the container is (network/exposure.h). In the
// network namespace of the calling thread; looks at the whole table, some 0.3 ms per 1000 connections. Returns how
// many. Some may be forgotten also when it fails.
Result<size_t> forget_connections(const std::vector<IpAddress>& addresses);

}  // namespace transship::network
