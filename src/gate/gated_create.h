// `create` and `start` of a container that is being moved here.
#pragma once
#include <string>

#include "base/result.h"
#include "gate/command_line.h"

namespace transship::gate {

std::string gates_dir();
// Empty when `id` cannot be a container's id. Whether it exists says whether the container is being moved here.
std::string gate_dir_of(const std::string& id);

// The runtime that does everything else. kNotFound when there is none.
Result<std::string> real_runtime();

// Waits at the gate, restores, and returns with the container parked; or with an error, and then nothing of it is left.
Result<> gated_create(const CommandLine& line, const std::string& gate_dir, const std::string& self);

// The start that the engine sends after the create: the container is complete already. Once.
Result<> gated_start(const CommandLine& line, const std::string& gate_dir);

}  // namespace transship::gate
