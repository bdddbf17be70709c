#include "migrate/arrival_policy.h"

#include "base/log.h"
#include "migrate/services.h"

namespace transship::migrate {

void PolicyBook::set(plan::PolicySet policies) {
  MutexLock lock(mu_);
  policies_ = std::move(policies);
}

plan::Policy PolicyBook::of(const std::string& peer) const {
  MutexLock lock(mu_);
  return policies_.of(peer);
}

std::string PolicyBook::file() const {
  MutexLock lock(mu_);
  return policies_.file;
}

Result<std::vector<plan::Objection>> policy_objections(const Services& services, const std::string& peer,
                                                       engine::Engine& engine, const engine::Container& wanted) {
  TS_TRY_ASSIGN(Demands demands, engine.demands(wanted));
  return plan::judge_policy(services.policy.of(peer), wanted.engine, demands);
}

Result<> check_policy(const Services& services, const std::string& peer, engine::Engine& engine,
                      const engine::Container& wanted) {
  TS_TRY_ASSIGN(auto objections, policy_objections(services, peer, engine, wanted));
  if (objections.empty()) return {};
  auto found = plan::objections_text(objections);
  TS_LOG_WARN("policy: {}:{} of {} refused: {}", wanted.engine, wanted.name, peer, found);
  return std::unexpected(
      Error(Errc::kRefused, fmt::format("the policy of {} refuses {}: {}", services.settings.node, wanted.name, found))
          .with_remedy(plan::objections_remedy(objections, services.policy.file(), services.settings.node)));
}

}  // namespace transship::migrate
