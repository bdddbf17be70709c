// Podman as an Engine, over its REST API. See engine.h for what the calls promise.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "engine/demand_finder.h"
#include "engine/engine.h"
#include "engine/podman_api.h"
#include "engine/podman_conflicts.h"
#include "engine/podman_container.h"
#include "engine/podman_service.h"
#include "engine/podman_spec.h"

namespace transship::engine {

class PodmanEngine : public Engine {
 public:
  explicit PodmanEngine(const PodmanOptions& options);
  std::string_view name() const override { return "podman"; }
  Result<std::string> version() override;
  Result<std::vector<Summary>> list(bool all) override;
  Result<Container> inspect(const std::string& name) override;
  Result<std::vector<Address>> addresses(const std::string& id) override;
  Result<> watch(const std::function<void(const std::string& id)>& changed, const Cancel& cancel) override;
  Result<std::string> restarts(const std::string& id) override;
  Result<std::string> hold_restarts(const std::string& id) override;
  Result<> release_restarts(const std::string& id, const std::string& held) override;
  Result<> forget(const std::string& id, bool keep, Deadline deadline) override;
  Result<std::vector<Conflict>> conflicts(const Container& wanted) override;
  Result<Demands> demands(const Container& wanted) override;
  Result<bool> has_image(const Container& wanted) override;
  Result<> pull_image(const Container& wanted, const RegistryFilter& allowed, Deadline deadline,
                      const Cancel& cancel) override;
  Result<> name_image(const Container& wanted) override;
  Result<Staged> stage(const Container& wanted, Deadline deadline, const Cancel& cancel) override;
  Result<> start(const std::string& id, Deadline deadline) override;
  Result<> finish(const std::string& id, const Container& wanted) override;
  Result<> discard(const std::string& id, Deadline deadline) override;
  Result<> discard_arrival(const Container& wanted, Deadline deadline) override;
  void warm_up() override;

 private:
  // To our own service; where it can't be started, to the host's.
  Result<ApiResponse> call(const ApiRequest& request);
  // The same, with every status from 400 on made an error; the answer as JSON.
  Result<Json> get(const std::string& path, const std::string& what, Deadline deadline);
  Result<> set_restart_policy(const std::string& id, const std::string& policy);
  Result<Json> host_info();
  Result<Json> inspect_raw(const std::string& name, Deadline deadline);
  Result<Json> inspect_network(const std::string& name);
  Result<PodmanAnswers> gather(const std::string& name);
  Json generated_spec(const std::string& id) const;
  Result<> forget_at_runtime(const std::string& id, Deadline deadline) const;
  Result<std::string> pull_one(const std::string& reference, Deadline deadline, const Cancel& cancel);
  Result<std::vector<Json>> all_networks();
  // Names; all, or those with this label ("name=value").
  Result<std::vector<std::string>> volumes_here(const std::string& label);
  Result<HostSide> host_side(const Container& wanted);
  Result<Staged> create(const Container& wanted, const PodmanSpec& spec, Deadline deadline);
  Result<> complete(const Container& wanted, Staged& staged, Deadline deadline);
  Result<> make_volumes(const Container& wanted, const PodmanSpec& spec, Deadline deadline);
  Result<> remove_volumes(const Container& wanted, Deadline deadline);
  // Of containers that do not run; those that do are in the answers about networks.
  std::vector<FixedAddress> fixed_addresses_here(const Json& containers);
  // kTimeout when it still runs at the deadline. False: it is gone.
  void tell_ended(const std::string& id, Deadline deadline);
  Result<bool> wait_until_ended(const std::string& id, Deadline deadline);
  const PodmanOptions options_;
  PodmanService service_;
  Mutex mu_;
  Json info_ GUARDED_BY(mu_);
  // By id: it is a program's answer, and stays the same. Only of containers that there are.
  std::map<std::string, std::vector<FixedAddress>> fixed_ GUARDED_BY(mu_);
};

}  // namespace transship::engine
