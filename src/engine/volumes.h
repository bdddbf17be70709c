// What engines have in common about volumes that arrive: directories of this host that a container brings with it.
#pragma once
#include <string>
#include <vector>

#include "engine/engine.h"

namespace transship::engine {

// Of what `wanted` has mounted from the host, what cannot be made here: a directory that is there and is not empty,
// something that is no directory, a path that a host needs for itself.
std::vector<Conflict> bind_conflicts(const Container& wanted);
// Directories of bind mounts that are not there, marked with `wanted.arrival` (sys/arrival_mark.h).
Result<> make_bind_directories(const Container& wanted);
// Those of this arrival: away with all that is in them, or theirs for good.
Result<> remove_bind_directories(const Container& wanted);
void keep_bind_directories(const Container& wanted);

}  // namespace transship::engine
