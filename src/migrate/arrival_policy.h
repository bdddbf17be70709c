// What this node's operator allows containers that arrive (plan/policy.h), in force from one moment to the next: it can
// be read again while the daemon runs.
#pragma once
#include <string>
#include <vector>

#include "base/mutex.h"
#include "engine/engine.h"
#include "plan/policy.h"

namespace transship::migrate {

struct Services;

// Thread-safe.
class PolicyBook {
 public:
  void set(plan::PolicySet policies);
  plan::Policy of(const std::string& peer) const;
  std::string file() const;

 private:
  mutable Mutex mu_;
  plan::PolicySet policies_ GUARDED_BY(mu_);
};

// What `engine` would really make of `wanted`, against the policy for the peer that sends it.
Result<std::vector<plan::Objection>> policy_objections(const Services& services, const std::string& peer,
                                                       engine::Engine& engine, const engine::Container& wanted);
// kRefused, with all of them and the keys that would allow it. Logged: a peer asks for what it may not have.
Result<> check_policy(const Services& services, const std::string& peer, engine::Engine& engine,
                      const engine::Container& wanted);

}  // namespace transship::migrate
