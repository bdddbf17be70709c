// What stands in the way of creating a container on this host. Pure: the engine gathers the facts.
#pragma once
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/host_ports.h"
#include "engine/json.h"
#include "engine/podman_spec.h"

namespace transship::engine {

struct PodmanHost {
  Json info;                   // /info of the service that will create it
  Json containers;             // /containers/json?all=true
  std::vector<Json> networks;  // /networks/json, each as /networks/NAME/json (with its containers)
  std::vector<Listener> listeners;
  std::vector<std::string> secrets;        // names that exist
  std::vector<std::string> missing_paths;  // of spec.files and spec.devices
};

std::vector<Conflict> find_conflicts(const Container& wanted, const PodmanSpec& spec, const PodmanHost& host);
// Is `ip` inside "10.77.0.0/24"?
bool subnet_contains(const std::string& subnet, const std::string& ip);

}  // namespace transship::engine
