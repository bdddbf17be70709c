// Peers as the operator sees them: pin, list, forget, check.
#pragma once
#include "migrate/services.h"
#include "node/tunnel_keeper.h"
#include "proto/local.pb.h"
#include "wire/listener.h"

namespace transship::node {

Result<local::PeerProbeReply> probe_peer(const migrate::Services& services, const std::string& address);
// The same name and key again only changes the address.
Result<local::PeerAddReply> add_peer(const migrate::Services& services, TunnelKeeper& tunnel,
                                     const local::PeerAddRequest& request);
Result<> remove_peer(const migrate::Services& services, TunnelKeeper& tunnel, const std::string& name,
                     wire::Listener& listener);
Result<local::PeersReply> list_peers(const migrate::Services& services, const TunnelKeeper& tunnel);
Result<local::PeerCheckReply> check_peer(const migrate::Services& services, TunnelKeeper& tunnel,
                                         const std::string& name);

}  // namespace transship::node
