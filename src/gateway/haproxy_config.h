// What HAProxy is told of one HTTP entry, when it starts and while it runs. Pure: texts only.
//
// Names and paths come from peers and end up in a configuration and in commands, where a space, a semicolon or a new
// line would begin something else: check_health_path() and is_plain_name() let none pass, and whoever calls these
// functions has asked them.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "network/address.h"

namespace transship::gateway {

struct GatewayOptions {
  std::string program = "haproxy";
  // Configuration, socket, log of each entry.
  std::string directory = "/run/transship-http";
  unsigned threads = 1;
  bool ipv6 = true;  // of this host
};

struct Entry {
  uint16_t port = 0;
  std::string health = {};  // path that must answer with 2xx or 3xx; empty: it takes a connection
};

// A container behind an entry.
struct Backend {
  std::string name;  // of the server, see server_name()
  network::IpAddress address;
  uint16_t port = 0;
  bool draining = false;  // no new requests
  bool paused = false;    // it is about to move, or on its way
  bool operator==(const Backend&) const = default;
};

inline constexpr const char* kBackendSection = "containers";

// Of one container's server; the port makes it one of its kind. Requires: is_plain_name(container).
std::string server_name(const std::string& container, uint16_t port);
// "/health", "/ready?db=1": letters, digits and /._~-%?=&+,:@ after the first slash, 256 at most. kInvalidArgument.
Result<> check_health_path(const std::string& path);

// What does not change while an entry lives.
struct ProcessUser {
  unsigned uid = 0, gid = 0;
};
std::string haproxy_config(const GatewayOptions& options, const Entry& entry, const ProcessUser& user);
// And who is behind it when the process starts, to be put behind that; later ones come by add_commands().
std::string server_lines(const std::vector<Backend>& backends);

// Commands of the runtime API.
std::vector<std::string> add_commands(const Backend& backend);
std::vector<std::string> remove_commands(const std::string& server);

std::string config_path(const GatewayOptions& options, uint16_t port);
std::string socket_path(const GatewayOptions& options, uint16_t port);

}  // namespace transship::gateway
