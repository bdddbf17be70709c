// What the source finds out about one container before it moves.
#pragma once
#include <string>
#include <vector>

#include "base/task_findings.h"
#include "engine/engine.h"
#include "migrate/services.h"
#include "plan/plan.h"
#include "sys/cgroup.h"

namespace transship::migrate {

struct Survey {
  uint64_t volume_bytes = 0;  // of all volumes, on disk
  uint64_t volume_files = 0;
  engine::Engine* engine = nullptr;
  engine::Container container;
  std::vector<pid_t> pids;
  TaskFindings tasks;
};

// "podman:NAME", "runc:ID" or "NAME". A bare name that several engines know is kInvalidArgument and says how to name
// it; one that none knows is kNotFound and lists near ones.
struct Found {
  engine::Engine* engine;
  engine::Container container;
};
Result<Found> find_container(const Services& services, const std::string& name);

// Everything; the container may be in any state (no tasks are looked at when it does not run).
Result<Survey> survey(const Services& services, const std::string& name);

// Where the root file system's difference is (or the whole root); the directory that travels.
std::string travelling_root(const engine::Container& container);
// Reads every name of every volume: `bytes` of its mounts, and the sums.
Result<> measure_volumes(Survey& survey, const Cancel& cancel);
// Sets `used_by` of its mounts. `pids`: its own processes.
Result<> find_sharers(const Services& services, engine::Container& container, const std::vector<pid_t>& pids);
struct TreeSize {
  uint64_t bytes = 0;  // on disk
  uint64_t files = 0;
};
// Reads every name in it. Zero for a container without such a directory.
Result<TreeSize> travelling_size(const engine::Container& container, const Cancel& cancel);

plan::ContainerSide container_side(const engine::Container& container);
plan::Abilities abilities();

}  // namespace transship::migrate
