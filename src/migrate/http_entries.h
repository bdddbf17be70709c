// HTTP entries of this node: each has a HAProxy (gateway/haproxy.h), and behind it the containers that Exposures say.
// HAProxy reaches them by ports of inner_address(), which lead to containers as entries do, so that a move changes
// nothing here.
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/mutex.h"
#include "gateway/haproxy.h"
#include "migrate/exposures.h"

namespace transship::migrate {

// Who has said that a container is about to move, and does not say that it is over, is not waited for any longer.
inline constexpr milliseconds kPauseLimit{60'000};

// Thread-safe.
class HttpEntries {
 public:
  // `exposures` outlive this object.
  HttpEntries(gateway::GatewayOptions options, const Exposures& exposures)
      : options_(std::move(options)), exposures_(exposures) {}
  // Brings the entry to what Exposures say of it now; ports of inner_address() lead where they should already.
  // kUnavailable: HAProxy is not there, or does not start; kAlreadyExists: the port is taken.
  Result<> open(uint16_t port);
  // Of one backend, by its exposure's key; lasts kPauseLimit at most. Milliseconds.
  void pause(const std::string& key, bool paused);
  // All entries, and processes that ended: twice a second. Returns the keys of exposures whose requests have ended.
  std::vector<std::string> keep_up();
  // "up", "down", "paused", "draining"; empty: not known yet.
  std::string state_of(const std::string& key) const;
  // What is not as it should be, a sentence each.
  std::vector<std::string> missing() const;

 private:
  struct OneEntry {
    std::unique_ptr<gateway::Haproxy> process;
    std::string problem;  // empty: all is well
    Deadline next_try = Deadline::in(milliseconds(0));
  };
  struct Behind {
    Exposure exposure;
    gateway::Backend backend;
  };
  std::map<uint16_t, std::vector<Behind>> wanted() const;
  static std::vector<gateway::Backend> backends_of(const std::vector<Behind>& behind);
  Result<> bring_up(uint16_t port, const std::vector<Behind>& behind) REQUIRES(working_);
  Result<> balance(OneEntry& entry, const std::vector<Behind>& behind) REQUIRES(working_);
  void take_down(uint16_t port) REQUIRES(working_);
  bool is_paused(const std::string& key) const;

  const gateway::GatewayOptions options_;
  const Exposures& exposures_;
  Mutex working_;  // one at a time; before mu_
  std::map<uint16_t, OneEntry> entries_ GUARDED_BY(working_);
  bool looked_for_old_ GUARDED_BY(working_) = false;
  mutable Mutex mu_;
  std::map<std::string, Deadline> paused_ GUARDED_BY(mu_);     // by key, until when
  std::map<std::string, std::string> states_ GUARDED_BY(mu_);  // by key
  std::map<std::string, bool> idle_ GUARDED_BY(mu_);           // by key: drained, and nothing of it is left
  std::map<uint16_t, std::string> problems_ GUARDED_BY(mu_);   // by port
};

}  // namespace transship::migrate
