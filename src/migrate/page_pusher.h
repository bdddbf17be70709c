// Post-copy, the source's side: the destination runs the container and says which pages it has not got; they are read
// from the frozen tasks here. What somebody waits for goes first.
//
// It needs to know nothing of what was sent before: the destination's list is the truth. So it goes on after a lost
// link in the same way as it began.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/mutex.h"
#include "memory/page_sender.h"
#include "memory/track/page_reader.h"
#include "migrate/peer_session.h"
#include "sys/cgroup.h"
#include "wire/lanes.h"

namespace transship::migrate {

struct PushLink {
  std::unique_ptr<PeerSession> session;
  std::unique_ptr<wire::LaneSender> bulk;
  std::unique_ptr<wire::LaneSender> urgent;  // nothing else on it: a page that is waited for is behind no others
};

struct PushProgress {
  uint64_t filled_pages = 0;
  uint64_t expected_pages = 0;
};

// One thread calls run(); it uses another.
class PagePusher {
 public:
  struct Hooks {
    std::function<Result<PushLink>()> connect;  // a new link, when the old one is gone
    std::function<void(const PushProgress&)> progress;
  };
  PagePusher(std::string move_id, sys::Cgroup cgroup, memory::PageSenderOptions options, Hooks hooks, Cancel cancel);
  // Returns when the destination has every page. Reconnects as often as it takes; `patience` without a word from the
  // destination is too long (kUnavailable). kCorrupt: the destination has lost the container.
  Result<> run(milliseconds patience);
  // Over all links, after run().
  const wire::LaneCounters& sent() const { return sent_; }

 private:
  class Outlet;
  Result<> find_tasks();
  Result<> push_over(PushLink& link);
  Result<> push_missing(PushLink& link, const Cancel& stop);
  Result<> serve_wanted(PushLink& link, const Cancel& stop);
  Result<peer::FillState> ask(PushLink& link, milliseconds wait, bool list, const Cancel& stop);
  bool finished() const;

  const std::string move_id_;
  const sys::Cgroup cgroup_;
  const memory::PageSenderOptions options_;
  const Hooks hooks_;
  const Cancel cancel_;
  std::map<uint64_t, pid_t> tasks_;  // by the pid in the images
  wire::LaneCounters sent_;
  mutable Mutex mu_;
  bool complete_ GUARDED_BY(mu_) = false;
  std::string lost_ GUARDED_BY(mu_);
  Clock::time_point heard_ GUARDED_BY(mu_);
};

}  // namespace transship::migrate
