// A container's addresses with their networks, as an entry needs them.
#pragma once
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"
#include "network/exposure.h"

namespace transship::migrate {

// Of one that is not here: by the addresses of `bridge`, the interface of its network on this host. That goes with the
// last container, and then the network is not known.
std::vector<network::ExposedAddress> exposed_addresses(const std::vector<network::IpAddress>& addresses,
                                                       const std::string& bridge);
// Of one that is here, as its engine says; none while it does not run.
Result<std::vector<network::ExposedAddress>> exposed_addresses(const engine::Container& container);

}  // namespace transship::migrate
