// Where a node is reached: text to addresses, and TCP connections to them.
#pragma once
#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/cancel.h"
#include "base/fd.h"
#include "base/result.h"
#include "wire/identity.h"

namespace transship::wire {

inline constexpr uint16_t kDefaultPort = 7440;

struct Endpoint {
  std::string host;  // name, IPv4 or IPv6 (without brackets)
  uint16_t port = kDefaultPort;
  bool operator==(const Endpoint&) const = default;
};

// "host", "host:port", "192.0.2.1:7440", "2001:db8::1", "[2001:db8::1]:7440". `port_zero`: 0 is allowed (listening).
Result<Endpoint> parse_endpoint(std::string_view text, bool port_zero = false);
std::string to_text(const Endpoint& endpoint);

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
};
// v4-mapped IPv6 becomes IPv4.
Endpoint to_endpoint(const SocketAddress& address);

// Numeric at once; names through the system's resolver in a child process, so that deadline and cancel hold.
Result<std::vector<SocketAddress>> resolve(const Endpoint& endpoint, Deadline deadline, const Cancel& cancel);
// Every address in turn. The error names each one and why it failed.
Result<Fd> connect_tcp(const Endpoint& endpoint, Deadline deadline, const Cancel& cancel);
Result<Endpoint> remote_endpoint(int fd);
// The address of ours that a connection uses: what the peer sees when nothing translates it.
Result<Endpoint> local_endpoint(int fd);

// The key of whoever answers there (proven by a whole handshake), whether or not it knows us. No key of ours is shown.
Result<Fingerprint> probe_fingerprint(const Endpoint& endpoint, Deadline deadline, const Cancel& cancel);

}  // namespace transship::wire
