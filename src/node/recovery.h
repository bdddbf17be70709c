// What a daemon that ended without cleaning up has left behind, put right at the next start.
#pragma once
#include <string>
#include <vector>

#include "migrate/move_table.h"
#include "migrate/services.h"

namespace transship::node {

// A move that goes on: what its directory says.
struct Unfinished {
  std::string move_id;
  journal::ResumeFile facts;
};

// Devices, rules, gates and mounts of ours that nothing uses; containers that an undecided move left frozen run again.
// Returns the moves that can go on; nothing of theirs is touched. Logs what it did. Call once, before anything listens.
// An error: the journal cannot be read, and nothing of a move was touched.
Result<std::vector<Unfinished>> recover(migrate::Services& services);
// Then this, also before anything listens.
void resume(migrate::Services& services, migrate::MoveTable& moves, const std::vector<Unfinished>& unfinished);

// Firewall exceptions of containers that are no longer here. Call now and then.
void collect_garbage(migrate::Services& services);

}  // namespace transship::node
