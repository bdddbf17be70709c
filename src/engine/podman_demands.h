// What a container asks of this host by the create request that is to make it. Every field of the request is looked at:
// one that is not known here is refused by name, and so is one that says something else than the facts it came with.
#pragma once
#include "engine/demand_finder.h"
#include "engine/engine.h"
#include "engine/podman_spec.h"

namespace transship::engine {

Demands podman_demands(const Container& wanted, const PodmanSpec& spec, const HostSide& host);

// "registry.example:5000" of "registry.example:5000/a/b@sha256:…"; what names none is Docker's own.
std::string registry_of(std::string_view reference);
// The same without tag and digest.
std::string repository_of(std::string_view reference);

}  // namespace transship::engine
