// The events of one move: kept for whoever watches it now or asks later.
#pragma once
#include <vector>

#include "base/cancel.h"
#include "base/mutex.h"
#include "proto/local.pb.h"

namespace transship::migrate {

// Thread-safe.
class EventFeed {
 public:
  void add(const local::MoveEvent& event);
  // No event will follow.
  void end();
  // Events from `from` on (progress that a later one made stale is left out), at most until `deadline`; `ended` says
  // that these are the last ones.
  std::vector<local::MoveEvent> wait(size_t& from, Deadline deadline, bool& ended);

 private:
  Mutex mu_;
  CondVar changed_;
  std::vector<local::MoveEvent> events_ GUARDED_BY(mu_);
  bool ended_ GUARDED_BY(mu_) = false;
};

}  // namespace transship::migrate
