// The WireGuard interface itself: the kernel's, else one of a wireguard-go process that outlives us. Told and asked
// through `wg`. All of it in the network namespace of the calling thread.
#pragma once
#include <string>

#include "network/netlink.h"
#include "network/tunnel_config.h"

namespace transship::network {

enum class TunnelBackend { kNone = 0, kKernel, kWireguardGo };
std::string_view backend_name(TunnelBackend backend);

struct TunnelLink {
  TunnelBackend backend = TunnelBackend::kNone;
  unsigned index = 0;
};

// kNotFound: there is no interface of that name. kAlreadyExists: there is one, but not of WireGuard.
Result<TunnelLink> find_tunnel_link(Netlink& netlink, const std::string& name);
// The kernel's where it has one and `kernel` allows it. What wireguard-go complains of goes to `log`.
// kKernelFeatureMissing: neither is there.
Result<TunnelLink> make_tunnel_link(Netlink& netlink, const std::string& name, bool kernel, const std::string& log);
// Interface, process, socket. Absent is fine.
Result<> remove_tunnel_link(Netlink& netlink, const std::string& name);

// What serves it, also where an earlier daemon started it: a pidfd. kNotFound: no wireguard-go does.
Result<Fd> find_wireguard_go(const std::string& name);
// What it has complained of, for people.
std::string last_words(const std::string& log);

// kKernelFeatureMissing: the program wg is not there.
Result<> check_wg();
Result<WgState> read_wg(const std::string& name);
// Nothing secret is in an argument: the configuration goes to wg's standard input.
Result<> write_wg(const std::string& name, const WgChange& change, const TunnelKey& key, uint16_t port);

// Packets of containers come out of a tunnel from any address: WireGuard and the firewall say what may, not the
// kernel's check of IPv4 sources (rp_filter). Its loose form lets nothing through where an interface has no IPv4
// address, so it gets the one that is set aside for that (RFC 7600, 192.0.0.8), from which nothing is sent.
Result<> allow_any_source(Netlink& netlink, const std::string& interface);

}  // namespace transship::network
