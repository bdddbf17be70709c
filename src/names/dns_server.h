// The DNS server of this node: a dnsmasq of ours, on an address of ours that is the same on every node, on an interface
// of ours. It outlives this process, so that names resolve while the daemon is away; a later one adopts it.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/mutex.h"
#include "base/result.h"
#include "network/address.h"

namespace transship::names {

struct DnsServerOptions {
  std::string program = "dnsmasq";
  std::string interface = "tsnames";
  std::vector<network::IpAddress> addresses;  // the first one is what resolvers are told
  std::string domain = "transship";
  // Configuration, records, log: readable for all, since the program gives up root.
  std::string directory = "/run/transship-names";
};

// Texts, for themselves and for tests.
std::string dnsmasq_config(const DnsServerOptions& options, std::string_view user);
std::string firewall_script(const DnsServerOptions& options);

// Thread-safe: changes are made one after the other. Works in the network namespace of the calling thread.
class DnsServer {
 public:
  explicit DnsServer(DnsServerOptions options) : options_(std::move(options)) {}
  // Brings up what is missing; call it now and then, and when notice_end() says so. kUnavailable: the program is not
  // there, or does not start; the remedy says what to do.
  Result<> keep();
  // The text of hosts_text(); answers follow within milliseconds.
  Result<> publish(const std::string& hosts);
  // Where everything but the domain is asked.
  Result<> set_upstream(const std::vector<std::string>& nameservers);
  // The process has ended since the last keep(): true once, and logged. Cheap.
  bool notice_end();
  // Something of the interface is missing. Cheap.
  bool lacks_interface() const;
  const DnsServerOptions& options() const { return options_; }

 private:
  Result<> make_interface() REQUIRES(mu_);
  Result<> start() REQUIRES(mu_);
  Result<> wait_until_it_answers() const;
  const DnsServerOptions options_;
  Mutex mu_;
  Fd process_ GUARDED_BY(mu_);
  std::string upstream_ GUARDED_BY(mu_) = "?";
};

// Process, interface, firewall table, files. Absent is fine.
Result<> take_dns_server_down(const DnsServerOptions& options);

}  // namespace transship::names
