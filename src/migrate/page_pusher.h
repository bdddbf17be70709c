// Post-copy, the source's side: the destination runs the container and says which pages it has not got; they are read
// from the frozen tasks here. What somebody waits for goes first.
//
// It needs to know nothing of what was sent before: the destination's list is the truth. So it goes on after a lost
// link in the same way as it began.
#pragma once
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/mutex.h"
#include "base/thread.h"
#include "memory/page_sender.h"
#include "migrate/peer_session.h"
#include "migrate/sent_ahead.h"
#include "migrate/services.h"
#include "sys/cgroup.h"
#include "wire/lanes.h"

namespace transship::migrate {

struct PushLink {
  std::unique_ptr<PeerSession> session;
  std::unique_ptr<wire::LaneSender> bulk;
  uint64_t bulk_limit = 0;                   // bytes/s; 0: none
  std::unique_ptr<wire::LaneSender> urgent;  // nothing else on it: a page that is waited for is behind no others
};

// What the lanes of a link are made by.
struct PushLanes {
  std::string move_id;
  std::string token;
  std::string peer;
  uint64_t max_bits_per_second = 0;  // of the bulk; 0: no limit
};
// To where `link.session` leads.
Result<> add_push_lanes(PushLink& link, const PushLanes& wanted, const Services& services, const Cancel& cancel);

struct PushProgress {
  uint64_t filled_pages = 0;
  uint64_t expected_pages = 0;
};

// One thread at a time; another one of its own serves what is waited for, from begin() until run() returns.
class PagePusher {
 public:
  struct Hooks {
    // A new link, when the old one is gone: a session first, which is all that is left once all is filled.
    std::function<Result<std::unique_ptr<PeerSession>>()> connect;
    std::function<Result<>(PushLink&)> add_lanes;
    std::function<void(const PushProgress&)> progress;
  };
  PagePusher(std::string move_id, sys::Cgroup cgroup, memory::PageSenderOptions options, Hooks hooks);
  ~PagePusher();
  PagePusher(const PagePusher&) = delete;
  PagePusher& operator=(const PagePusher&) = delete;
  // The tasks are frozen, the destination is about to restore them: a few pages are touched in that, and must be there
  // before it can say that it is done. Nothing else is sent yet. Returns at once.
  Result<> begin(PushLink link);
  // Ends what begin() has begun; run() makes a new link.
  void stop();
  // Sends the rest. Returns when the destination has every page. Reconnects as often as it takes; `patience` without a
  // word from the destination is too long (kUnavailable). kCorrupt: the destination has lost the container. `end` ends
  // it early (kCancelled), within some ten seconds.
  Result<> run(milliseconds patience, const Cancel& end);
  // Over all links, after run().
  const wire::LaneCounters& sent() const { return sent_; }

 private:
  class Outlet;
  Result<> connect();
  Result<> serve();
  Result<> push();
  Result<> push_missing();
  Result<> serve_wanted();
  void make_way(bool wanted);
  Result<peer::FillState> ask(milliseconds wait, bool list);
  bool finished() const;

  const std::string move_id_;
  const sys::Cgroup cgroup_;
  const memory::PageSenderOptions options_;
  const Hooks hooks_;
  std::optional<PushLink> link_;
  std::optional<Cancel> stop_;  // of link_
  std::optional<Cancel> end_;   // of run()
  Result<> served_;
  SentAhead ahead_;               // on link_, since the last list
  Clock::time_point waited_for_;  // by somebody on the destination, last; of the serving thread, like slow_
  bool slow_ = false;
  std::atomic<bool> running_ = false;
  std::map<uint64_t, pid_t> tasks_;  // by the pid in the images
  wire::LaneCounters sent_;
  mutable Mutex mu_;
  bool complete_ GUARDED_BY(mu_) = false;
  std::string lost_ GUARDED_BY(mu_);
  Clock::time_point heard_ GUARDED_BY(mu_);
  Thread wanted_;  // after what it uses
};

}  // namespace transship::migrate
