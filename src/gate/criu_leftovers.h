// CRIU makes a directory /tmp/.criu.mntns.XXXXXX for each restore and removes it at the end, unless it is killed.
#pragma once
#include <string>
#include <vector>

namespace transship::gate {

// Those that are there now.
std::vector<std::string> criu_directories(const std::string& tmp = "/tmp");

// Removes those that are not in `known`, are empty and are mounted in no process's view. `known` is what was there
// before the CRIU was started whose leftovers these are.
void remove_criu_directories(const std::vector<std::string>& known, const std::string& tmp = "/tmp");

}  // namespace transship::gate
