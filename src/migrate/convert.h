// Between the engines' own types and what travels to a peer.
#pragma once
#include "base/result.h"
#include "engine/engine.h"
#include "network/cutover.h"
#include "proto/peer.pb.h"

namespace transship::migrate {

peer::ContainerFacts to_facts(const engine::Container& container);
// The peer is pinned but may still send nonsense: names, counts and sizes are checked. kPeerProtocol when not allowed.
Result<engine::Container> from_facts(const peer::ContainerFacts& facts);
using Addresses = google::protobuf::RepeatedPtrField<peer::Address>;
void put_addresses(const std::vector<engine::Address>& from, Addresses& to);
std::vector<engine::Address> take_addresses(const Addresses& from);

// Name, addresses, ports; its own id for the one at its home, which identify() may replace.
network::CutoverFacts cutover_facts(const engine::Container& container);

}  // namespace transship::migrate
