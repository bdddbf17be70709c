// Containers that an engine here shows as running, and that are not here: not yet, since their move is not committed,
// or not any more, since it is.
#pragma once
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "base/mutex.h"

namespace transship::migrate {

// Thread-safe.
class Passing {
 public:
  // Called, by whichever thread, when one has come for good or not at all, and when one has left: must return at once.
  // It may ask, and take locks under which others ask. An empty one ends it; when this returns none is being called any
  // more.
  void on_change(std::function<void()> call) {
    MutexLock lock(call_mu_);
    call_ = std::move(call);
  }
  // It may come.
  void put(const std::string& engine_id) {
    MutexLock lock(mu_);
    ids_.insert(engine_id);
  }
  // It runs elsewhere; until remove(), when the engine has noticed. `tell`: now; else the engine may.
  void leave(const std::string& engine_id, bool tell) {
    {
      MutexLock lock(mu_);
      ids_.insert(engine_id);
      left_.insert(engine_id);
    }
    if (tell) call();
  }
  void remove(const std::string& engine_id) {
    bool known = false;
    {
      MutexLock lock(mu_);
      left_.erase(engine_id);
      known = ids_.erase(engine_id) > 0;
    }
    if (known) call();
  }
  // It was known by another home and id before it came with a new address. Kept until the daemon ends: it is asked for
  // as long as the engine has the container.
  void succeeds(const std::string& engine_id, const std::string& home, const std::string& home_id) {
    MutexLock lock(mu_);
    before_[engine_id] = {home, home_id};
  }
  // Home and id.
  std::pair<std::string, std::string> predecessor(const std::string& engine_id) const {
    MutexLock lock(mu_);
    auto found = before_.find(engine_id);
    return found == before_.end() ? std::pair<std::string, std::string>() : found->second;
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
  void call() {
    MutexLock lock(call_mu_);
    if (call_) call_();
  }
  mutable Mutex mu_;
  std::set<std::string> ids_ GUARDED_BY(mu_);
  std::set<std::string> left_ GUARDED_BY(mu_);  // of them
  std::map<std::string, std::pair<std::string, std::string>> before_ GUARDED_BY(mu_);
  Mutex call_mu_;  // never taken under mu_, nor the other way round
  std::function<void()> call_ GUARDED_BY(call_mu_);
};

}  // namespace transship::migrate
