// The HAProxy of one HTTP entry: a process of its own, so that an entry that comes or goes disturbs no other. It
// outlives this one, so that clients are served while the daemon is away; a later one adopts it.
#pragma once
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "gateway/balance.h"
#include "gateway/haproxy_config.h"

namespace transship::gateway {

// One thread at a time. Works in the network namespace of the calling thread.
class Haproxy {
 public:
  Haproxy(GatewayOptions options, Entry entry) : options_(std::move(options)), entry_(std::move(entry)) {}
  // Brings it up when it is not there, with `backends`; one that has another configuration is replaced, and its
  // listening socket goes over without a gap. kUnavailable: the program is not there, or does not start;
  // kAlreadyExists: the port is taken. Some ms when all is well, else some seconds.
  Result<> keep(const std::vector<Backend>& backends);
  const Entry& entry() const { return entry_; }
  Result<std::vector<ServerStatus>> servers() const;
  // Says what changes() finds; what is not understood is the error, and the rest is said all the same.
  Result<> say(const std::vector<std::string>& commands) const;
  // The process has ended since the last keep(): true once, and logged. Cheap.
  bool notice_end();

 private:
  Result<> start(const std::string& config, const std::vector<Backend>& backends, const Fd* old);
  const GatewayOptions options_;
  const Entry entry_;
  Fd process_;
};

// Process and files of the entry. Absent is fine.
Result<> end_haproxy(const GatewayOptions& options, uint16_t port);
// Of all entries, once there is none.
Result<> remove_directory(const GatewayOptions& options);
// Ports of entries that have a process or files.
std::vector<uint16_t> haproxies(const GatewayOptions& options);
// kAlreadyExists when somebody listens on it, or has it otherwise.
Result<> check_port_free(uint16_t port);
// kUnavailable, with the remedy.
Result<> check_program(const GatewayOptions& options);

// The address by which HAProxy reaches containers, on the loopback interface (network::inner_address()).
Result<> put_inner_addresses(bool ipv6);
bool has_inner_addresses(bool ipv6);
Result<> remove_inner_addresses();

}  // namespace transship::gateway
