// Names of containers as peers say them.
#pragma once
#include <string>

#include "base/result.h"
#include "names/directory.h"
#include "proto/peer.pb.h"

namespace transship::node {

// `speaker`: fingerprint of the node that says so, which is meant where no home is named. kPeerProtocol: its addresses
// are none, or too many; what else may be wrong about it says names::complaint().
Result<names::NamedContainer> from_proto(const peer::NamedContainer& said, const std::string& speaker);
void to_proto(const names::NamedContainer& container, peer::NamedContainer& out);

}  // namespace transship::node
