#include "network/tunnel_table.h"

#include "network/placement.h"
#include "network/tunnel_key.h"
#include "sys/nft_table.h"
#include "sys/process.h"

namespace transship::network {
namespace {

std::string table_of(const std::string& interface) { return "transship_tunnel_" + interface; }

// TCP that passes through learns how large its segments may be, whatever becomes of ICMP on the way. A peer's own
// address is for asking whether it is there, and for telling containers what is wrong with their packets: not for
// services of this host, nor for hosts behind.
std::string script_of(const std::string& interface) {
  return fmt::format(
      "table inet {0}\ndelete table inet {0}\n"
      "table inet {0} {{\n"
      "chain clamp {{ type filter hook forward priority mangle; policy accept;\n"
      "oifname \"{1}\" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu\n}}\n"
      "chain forward {{ type filter hook forward priority filter + 5; policy accept;\n"
      "iifname \"{1}\" ip6 saddr {2}/{3} icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded, "
      "parameter-problem }} accept\n"
      "iifname \"{1}\" ip6 saddr {2}/{3} drop\n"
      "iifname \"{1}\" meta mark & {4} != {5} drop\n}}\n"
      "chain input {{ type filter hook input priority filter; policy accept;\n"
      "iifname \"{1}\" meta l4proto != icmpv6 ct state != {{ established, related }} drop\n}}\n"
      "}}\n",
      table_of(interface), interface, tunnel_prefix().text(), kTunnelPrefixBits, kMarkMask, kPassMark);
}

}  // namespace

Result<> install_tunnel_table(const std::string& interface) {
  sys::Command c;
  c.argv = {"nft", "-f", "-"};
  c.input = script_of(interface);
  c.deadline = Deadline::in(milliseconds(10'000));
  TS_TRY_CTX(sys::run_ok(c), "firewall rules of the tunnel");
  return {};
}

Result<bool> has_tunnel_table(const std::string& interface) {
  TS_TRY_ASSIGN(auto socket, sys::NftSocket::open_in_netns_of(0));
  return socket.has(table_of(interface));
}

Result<> remove_tunnel_table(const std::string& interface) {
  TS_TRY_ASSIGN(auto socket, sys::NftSocket::open_in_netns_of(0));
  return socket.remove(table_of(interface));
}

}  // namespace transship::network
