// From what Podman says about a container to what it wants for creating the same one: the `spec` that travels.
#pragma once
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"
#include "engine/podman_container.h"

namespace transship::engine {

// What travels, besides the fields of Container that everyone reads:
// {"format": 1, "create": body of /containers/create, "image_refs": [...], "secrets": [...], "files": [...],
//  "devices": [...], "volumes": [{"name": ..., "labels": {...}}...], "blocks": [[check, found, remedy]...]}
// One that has a name of its own.
struct PodmanVolume {
  std::string name;
  Json labels;
};

struct PodmanSpec {
  Json create;
  std::vector<std::string> image_refs;  // by digest, best first
  std::vector<std::string> secrets;     // names that must exist
  std::vector<std::string> files;       // host paths that must exist (seccomp profile, init)
  std::vector<std::string> devices;     // host device paths that must exist
  std::vector<PodmanVolume> volumes;
  std::vector<Conflict> blocks;  // what can't be made again anywhere else
};

PodmanSpec make_spec(const Container& container, const PodmanAnswers& answers);
std::string write_spec(const PodmanSpec& spec);
// A peer wrote it: kPeerProtocol when it is too long or not of this form.
// Podman chooses them anew: in the same networks, with the same interfaces and aliases.
void forget_addresses(PodmanSpec& spec);
Result<PodmanSpec> read_spec(const std::string& text);

}  // namespace transship::engine
