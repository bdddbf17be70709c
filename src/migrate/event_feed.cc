#include "migrate/event_feed.h"

namespace transship::migrate {

void EventFeed::add(const local::MoveEvent& event) {
  MutexLock lock(mu_);
  events_.push_back(event);
  changed_.notify_all();
}

void EventFeed::end() {
  MutexLock lock(mu_);
  ended_ = true;
  changed_.notify_all();
}

std::vector<local::MoveEvent> EventFeed::wait(size_t& from, Deadline deadline, bool& ended) {
  MutexLock lock(mu_);
  while (events_.size() <= from && !ended_ && !deadline.passed()) changed_.wait_until(mu_, deadline.at());
  std::vector<local::MoveEvent> result;
  for (; from < events_.size(); ++from) result.push_back(events_[from]);
  ended = ended_;
  return result;
}

}  // namespace transship::migrate
