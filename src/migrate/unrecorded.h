// What the journal did not take: a full disk, most likely. It is tried again until it does, so that no move is shown as
// running that is over.
#pragma once
#include <map>
#include <string>

#include "base/log.h"
#include "base/mutex.h"
#include "state/store.h"

namespace transship::migrate {

// Thread-safe. Holds the newest entry of each move only; the lock is held while the journal is written, or an old entry
// could come after a newer one.
class Unrecorded {
 public:
  // Puts it into the journal, now or later. An error: it is not there yet, and why.
  Result<> put(state::Store& store, const state::Move& move) {
    MutexLock lock(mu_);
    auto r = store.put_move(move, false);
    if (r) {
      waiting_.erase(move.id);
      return r;
    }
    TS_LOG_WARN("mig={} journal: {}", move.id, r.error().message());
    waiting_[move.id] = move;
    return r;
  }
  // Now and then.
  void retry(state::Store& store) {
    MutexLock lock(mu_);
    std::erase_if(waiting_, [&](const auto& entry) { return store.put_move(entry.second, false).has_value(); });
  }

 private:
  Mutex mu_;
  std::map<std::string, state::Move> waiting_ GUARDED_BY(mu_);
};

}  // namespace transship::migrate
