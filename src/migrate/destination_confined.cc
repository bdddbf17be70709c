// A destination does not take the source's word for what its images make: before CRIU reads them, and by what the
// kernel says of the tasks before one of them may run.
#include <filesystem>

#include "base/log.h"
#include "criu/confined_images.h"
#include "engine/oci_bundle.h"
#include "migrate/destination.h"
#include "sys/cgroup.h"
#include "sys/confinement.h"

namespace transship::migrate {
namespace {

// The runtime's words for them, and the kernel's.
constexpr std::pair<const char*, const char*> kNamespaces[] = {{"mount", "mnt"}, {"pid", "pid"}, {"network", "net"},
                                                               {"ipc", "ipc"},   {"uts", "uts"}, {"cgroup", "cgroup"}};

sys::Confinement confinement_of(const engine::OciBundle& bundle, const plan::Policy& policy) {
  sys::Confinement wanted;
  for (const auto& name : bundle.capabilities) wanted.capabilities |= sys::capability_mask(name);
  // The engine here may give fewer than the one there.
  for (const auto& name : policy.capabilities) wanted.capabilities |= sys::capability_mask(name);
  if (policy.privileged) wanted.capabilities = ~uint64_t{0};
  wanted.seccomp = bundle.has_seccomp;
  wanted.no_new_privileges = bundle.no_new_privileges;
  for (const auto& [oci, kernel] : kNamespaces)
    if (bundle.find_namespace(oci) != nullptr) wanted.own_namespaces.emplace_back(kernel);
  if (const auto* network = bundle.find_namespace("network")) wanted.network_path = network->path;
  std::error_code error;
  if (std::filesystem::exists("/sys/kernel/security/apparmor", error))
    wanted.apparmor_profile = bundle.apparmor_profile;
  return wanted;
}

}  // namespace

Result<> DestinationMove::check_images_confined() const {
  TS_TRY_ASSIGN(auto bundle, engine::load_oci_bundle(bundle_));
  criu::OwnNamespaces own;
  own.pid = bundle.find_namespace("pid") != nullptr;
  own.network = bundle.find_namespace("network") != nullptr;
  own.ipc = bundle.find_namespace("ipc") != nullptr;
  own.uts = bundle.find_namespace("uts") != nullptr;
  auto checked = criu::check_confined(directory_ + "/images", own);
  if (!checked) TS_LOG_WARN("mig={} of {}: {}", id_, source_, checked.error().message());
  return checked;
}

// Those of privileged containers included: what makes them so is in their bundle.
Result<> DestinationMove::check_tasks_confined() const {
  TS_TRY_ASSIGN(auto bundle, engine::load_oci_bundle(bundle_));
  TS_TRY_ASSIGN(auto cgroup, sys::Cgroup::at(parked_container_->cgroup()));
  TS_TRY_ASSIGN(auto pids, cgroup.processes());
  auto checked =
      sys::check_confinement(parked_container_->pid(), pids, confinement_of(bundle, services_.policy.of(source_)));
  if (!checked) TS_LOG_WARN("mig={} of {}: {}", id_, source_, checked.error().message());
  return checked;
}

}  // namespace transship::migrate
