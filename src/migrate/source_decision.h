// What both halves of a source (source.h, resumed_source.h) say to the destination about the decision.
#pragma once
#include <string>

#include "migrate/decision_register.h"
#include "migrate/services.h"

namespace transship::migrate {

// A session of its own: the move's may hang. *Abort*: the destination's tasks are dead; *commit*: they run there.
Result<Decision> withdraw_from(const Services& services, const std::string& peer, const std::string& move_id,
                               const Cancel& cancel);
// Says Commit, with the same answers.
Result<Decision> commit_at(const Services& services, const std::string& peer, const std::string& move_id,
                           const Cancel& cancel);

}  // namespace transship::migrate
