// What stands in the way of creating a container on this host. Pure: the engine gathers the facts.
#pragma once
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/host_ports.h"
#include "engine/json.h"
#include "engine/podman_spec.h"

namespace transship::engine {

// An address that a container which does not run was given by its user: it takes it when it starts.
struct FixedAddress {
  std::string container;
  std::string state;
  std::string network;
  std::string ip;
};

struct PodmanHost {
  Json info;                   // /info of the service that will create it
  Json containers;             // /containers/json?all=true
  std::vector<Json> networks;  // /networks/json, each as /networks/NAME/json (with its containers)
  std::vector<FixedAddress> fixed = {};
  std::vector<Listener> listeners;
  std::vector<std::string> secrets;        // names that exist
  std::vector<std::string> volumes;        // likewise
  std::vector<std::string> missing_paths;  // of spec.files and spec.devices
};

std::vector<Conflict> find_conflicts(const Container& wanted, const PodmanSpec& spec, const PodmanHost& host);
// Of one container, by `podman generate spec`; in no other answer of Podman's are they.
std::vector<FixedAddress> fixed_addresses(const Json& generated);
// Is `ip` inside "10.77.0.0/24"?
bool subnet_contains(const std::string& subnet, const std::string& ip);

}  // namespace transship::engine
