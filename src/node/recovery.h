// What a daemon that ended without cleaning up has left behind, put right at the next start.
#pragma once
#include "migrate/services.h"

namespace transship::node {

// Devices, rules, gates and mounts of ours that nothing uses; containers that an undecided move left frozen run again.
// Logs what it did. Call once, before anything listens.
void recover(migrate::Services& services);

// Firewall exceptions of containers that are no longer here. Call now and then.
void collect_garbage(migrate::Services& services);

}  // namespace transship::node
