// What Podman's answers say about a container, in our words. Pure: no calls, no files.
#pragma once
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"
#include "engine/json.h"

namespace transship::engine {

// The move that created a container here, so that it is known again when the answer to its creation got lost.
constexpr const char* kArrivalAnnotation = "io.transship.arrival";

// The answers about one container; null where there is none (a container that never ran has no `oci`).
struct PodmanAnswers {
  Json inspect;    // /containers/ID/json
  Json image;      // /images/ID/json
  Json oci;        // the config.json that its runtime got
  Json generated;  // `podman generate spec`: static addresses, devices and mounts that inspect does not show
  std::vector<Json> networks;      // /networks/NAME/json of each of its networks
  std::vector<Json> volumes = {};  // /volumes/NAME/json of each of its volumes
};

// Everything except `spec`. kPeerProtocol when `inspect` lacks what no container can lack.
Result<Container> container_from(const PodmanAnswers& answers);
// Of one that runs, by inspect alone: without the interface's name.
std::vector<Address> addresses_of(const Json& inspect);
// /containers/json
std::vector<Summary> summaries_from(const Json& list);
// "on-failure:3" and the two values the API wants for it.
std::string restart_policy_text(const std::string& name, int64_t retries);
struct RestartPolicy {
  std::string name;
  uint64_t retries = 0;
};
Result<RestartPolicy> parse_restart_policy(const std::string& text);

}  // namespace transship::engine
