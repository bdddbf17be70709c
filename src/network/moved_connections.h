// Firewall exceptions on the destination for exactly the TCP connections that moved in.
//
// To the destination's connection tracking the first reply of a moved connection belongs to nothing: Podman's rules
// would masquerade it or drop it as invalid. So these 4-tuples are not tracked, in both directions; everything else is.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "network/address.h"

namespace transship::network {

struct Connection {
  IpAddress local;  // the container's
  uint16_t local_port = 0;
  IpAddress remote;
  uint16_t remote_port = 0;
  auto operator<=>(const Connection&) const = default;
};

// TCP connections of the network namespace of `pid` that a move carries along (established, and those being closed or
// opened that CRIU takes); loopback ones are left out.
Result<std::vector<Connection>> established_connections(pid_t pid);

// What a container's table is called after: the first 12 digits of an engine's hex id, else as many of a hash (plain
// bundles have names of any kind).
std::string table_key(const std::string& container_id);
// Table `inet transship_<table_key>`; replaces an earlier one of the same container in one transaction. No connections:
// no table.
Result<> install_moved_connections(const std::string& container_id, const std::vector<Connection>& connections);
// Absent is fine.
Result<> remove_moved_connections(const std::string& container_id);
// table_key() of the containers that have a table.
Result<std::vector<std::string>> list_moved_connections();

}  // namespace transship::network
