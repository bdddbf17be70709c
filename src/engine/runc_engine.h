// Plain bundles under runc as an Engine. See engine.h for what the calls promise; docs/engines.md for what a bundle's
// network, mounts and standard output need.
#pragma once
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/runc_bundle.h"

namespace transship::engine {

class RuncEngine : public Engine {
 public:
  explicit RuncEngine(const RuncOptions& options) : options_(options) {}
  std::string_view name() const override { return "runc"; }
  Result<std::string> version() override;
  Result<std::vector<Summary>> list(bool all) override;
  Result<Container> inspect(const std::string& name) override;
  // runc restarts nothing.
  Result<std::string> restarts(const std::string& id) override;
  Result<std::string> hold_restarts(const std::string& id) override;
  Result<> release_restarts(const std::string& id, const std::string& held) override;
  // The bundle directory goes too when it is one that arrived here; one that the user made stays.
  Result<> forget(const std::string& id, bool keep, Deadline deadline) override;
  Result<std::vector<Conflict>> conflicts(const Container& wanted) override;
  Result<Demands> demands(const Container& wanted) override;
  Result<bool> has_image(const Container&) override { return true; }
  Result<> pull_image(const Container&, const RegistryFilter&, Deadline, const Cancel&) override { return {}; }
  Result<> name_image(const Container&) override { return {}; }
  Result<Staged> stage(const Container& wanted, Deadline deadline, const Cancel& cancel) override;
  Result<> start(const std::string& id, Deadline deadline) override;
  Result<> finish(const std::string& id, const Container& wanted) override;
  Result<> discard(const std::string& id, Deadline deadline) override;
  Result<> discard_arrival(const Container& wanted, Deadline deadline) override;

 private:
  Result<Json> state(const std::string& id, Deadline deadline);
  Result<> create(const std::string& id, Deadline deadline);
  Result<> remove(const std::string& id, Deadline deadline);
  Result<> open_network(const std::string& id, Deadline deadline);
  std::string bundle_of(const std::string& id) const { return options_.bundles_dir + "/" + id; }
  const RuncOptions options_;
};

}  // namespace transship::engine
