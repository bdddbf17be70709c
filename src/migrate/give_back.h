// A container that a daemon which was killed has left frozen on its source, and that belongs here.
#pragma once
#include "migrate/services.h"

namespace transship::migrate {

// Opens its network, lets it run, puts its restart policy back. Requires: nobody else can run it any more. False: it
// does not run here any more.
bool give_back(Services& services, const state::Move& move);

}  // namespace transship::migrate
