// What a container asks of this host by the config.json of its bundle. Every field is looked at: one that is not known
// here is refused by name, and so is whatever would run a program on the host.
#pragma once
#include <functional>

#include "engine/demand_finder.h"
#include "engine/runc_bundle.h"

namespace transship::engine {

// `own_network`: does the file name the network namespace that this daemon is in?
Demands bundle_demands(const Bundle& bundle, const HostSide& host,
                       const std::function<bool(const std::string& path)>& own_network);

}  // namespace transship::engine
