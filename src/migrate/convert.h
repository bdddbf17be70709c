// Between the engines' own types and what travels to a peer.
#pragma once
#include "base/result.h"
#include "engine/engine.h"
#include "proto/peer.pb.h"

namespace transship::migrate {

peer::ContainerFacts to_facts(const engine::Container& container);
// The peer is pinned but may still send nonsense: names, counts and sizes are checked. kPeerProtocol when not allowed.
Result<engine::Container> from_facts(const peer::ContainerFacts& facts);

}  // namespace transship::migrate
