// Containers that an engine here shows as running, and that are not here: not yet, since their move is not committed,
// or not any more, since it is.
#pragma once
#include <functional>
#include <set>
#include <string>

#include "base/mutex.h"

namespace transship::migrate {

// Thread-safe.
class Passing {
 public:
  // Called, by whichever thread, when one has come for good or not at all, and when one has left: must return at once.
  // An empty one ends it; when this returns none is being called any more.
  void on_change(std::function<void()> call) {
    MutexLock lock(mu_);
    call_ = std::move(call);
  }
  // It may come.
  void put(const std::string& engine_id) {
    MutexLock lock(mu_);
    ids_.insert(engine_id);
  }
  // It runs elsewhere; until remove(), when the engine has noticed. `tell`: now; else the engine may.
  void leave(const std::string& engine_id, bool tell) {
    MutexLock lock(mu_);
    ids_.insert(engine_id);
    left_.insert(engine_id);
    if (tell && call_) call_();
  }
  void remove(const std::string& engine_id) {
    MutexLock lock(mu_);
    left_.erase(engine_id);
    if (ids_.erase(engine_id) > 0 && call_) call_();
  }
  bool any() const {
    MutexLock lock(mu_);
    return !ids_.empty();
  }
  bool has(const std::string& engine_id) const {
    MutexLock lock(mu_);
    return ids_.contains(engine_id);
  }

  bool has_left(const std::string& engine_id) const {
    MutexLock lock(mu_);
    return left_.contains(engine_id);
  }

 private:
  mutable Mutex mu_;
  std::set<std::string> ids_ GUARDED_BY(mu_);
  std::set<std::string> left_ GUARDED_BY(mu_);  // of them
  std::function<void()> call_ GUARDED_BY(mu_);
};

}  // namespace transship::migrate
