// That a container is about to stand still, told to those who would take it for dead: beside the move, which neither
// waits for them nor fails with them.
#pragma once
#include "base/cancel.h"
#include "base/thread.h"
#include "network/cutover.h"

namespace transship::migrate {

// Thread-safe.
class MovingListener {
 public:
  virtual ~MovingListener() = default;
  // May take some seconds.
  virtual void moving(const network::CutoverFacts& facts, bool ended) = 0;
};

// One owner. Tells it at once, on a thread of its own, and again now and then, as long as this object is there.
class MovingNotice {
 public:
  MovingNotice(MovingListener& listener, network::CutoverFacts facts);
  // Tells that it is over, and does not wait until everybody has heard it.
  void end();
  // end(), and waits: not in the gap.
  ~MovingNotice();
  MovingNotice(const MovingNotice&) = delete;
  MovingNotice& operator=(const MovingNotice&) = delete;

 private:
  Cancel ended_;
  Thread thread_;
};

}  // namespace transship::migrate
