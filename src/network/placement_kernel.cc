#include <net/if.h>

#include <algorithm>
#include <set>

#include "base/text.h"
#include "network/netlink.h"
#include "network/placement.h"
#include "sys/file.h"
#include "sys/nft_table.h"
#include "sys/process.h"

namespace transship::network {
namespace {

constexpr milliseconds kProgramLimit{10'000};

Result<std::string> ip(std::vector<std::string> arguments, std::string input = {}) {
  sys::Command c;
  c.argv = std::move(arguments);
  c.argv.insert(c.argv.begin(), "ip");
  c.input = std::move(input);
  c.max_output = 64U << 20;
  c.deadline = Deadline::in(kProgramLimit);
  TS_TRY_ASSIGN(auto done, sys::run_ok(c));
  return std::move(done.out);
}

Result<PlacedState> placed_now() {
  IpListings all;
  TS_TRY_ASSIGN(all.routes, ip({"-j", "route", "show", "table", "all", "proto", std::to_string(kPlacementProtocol)}));
  TS_TRY_ASSIGN(all.rules_v4, ip({"-j", "-d", "-4", "rule", "show"}));
  // A kernel without IPv6 has no rules of it.
  if (auto rules = ip({"-j", "-d", "-6", "rule", "show"}); rules) all.rules_v6 = std::move(*rules);
  TS_TRY_ASSIGN(all.neighbours, ip({"-j", "-d", "neigh", "show", "proxy"}));
  return parse_placed_state(all);
}

Result<> set_firewall(const Placement& placement) {
  sys::Command c;
  c.argv = {"nft", "-f", "-"};
  c.input = firewall_script(placement);
  c.deadline = Deadline::in(kProgramLimit);
  TS_TRY_CTX(sys::run_ok(c), "firewall rules of moved containers");
  return {};
}

Result<> set_control(const std::string& path, const std::string& value) {
  auto now = sys::read_file(path, 64);
  if (!now) return std::unexpected(std::move(now).error());
  return trim(*now) == value ? Result<>() : sys::write_control(path, value);
}

// What guests send comes in by the bridge and leaves by a tunnel.
Result<> set_interfaces(const Placement& p) {
  std::set<std::string> bridges;
  std::set<std::string> ndp;
  // One that has left just now was the last on its bridge: that must not keep the next guest out.
  for (const auto& c : p.guests)
    if (::if_nametoindex(c.bridge.c_str()) != 0) bridges.insert(c.bridge);
  for (const auto& bridge : bridges) {
    // Answers for the rest of the guest's network, which is behind the tunnel; for natives of this host nothing
    // changes, since their way to those addresses is the bridge itself.
    TS_TRY(set_control(fmt::format("/proc/sys/net/ipv4/conf/{}/proxy_arp", bridge), "1"));
    TS_TRY(set_control(fmt::format("/proc/sys/net/ipv4/neigh/{}/proxy_delay", bridge), "0"));
  }
  for (const auto& c : p.away) {
    if (c.bridge.empty() || ::if_nametoindex(c.bridge.c_str()) == 0) continue;
    (void)set_control(fmt::format("/proc/sys/net/ipv4/neigh/{}/proxy_delay", c.bridge), "0");
    if (std::ranges::any_of(c.addresses, [](const IpAddress& a) { return !a.is_v4(); }))
      TS_TRY(set_control(fmt::format("/proc/sys/net/ipv6/conf/{}/proxy_ndp", c.bridge), "1"));
  }
  return {};
}

// Interfaces go by themselves: the engine removes a bridge with its last container. What needs one that is not there
// comes with it at a later call.
void leave_out_absent(PlacedState& s) {
  auto absent = [](const auto& one) { return !one.interface.empty() && ::if_nametoindex(one.interface.c_str()) == 0; };
  std::erase_if(s.routes, absent);
  std::erase_if(s.neighbours, absent);
}

std::string sentence(const PlacedRoute& r) {
  return fmt::format("route to {} through {}{}", r.to, r.interface,
                     r.table == 0 ? "" : fmt::format(" in table {}", r.table));
}
std::string sentence(const PlacedRule& r) {
  return r.mark != 0 ? fmt::format("rule for the mark 0x{:x} ({})", r.mark, r.v4 ? "IPv4" : "IPv6")
                     : fmt::format("rule for packets from {} that come by {}", r.from, r.interface);
}
std::string sentence(const PlacedNeighbour& n) { return fmt::format("answer for {} on {}", n.address, n.interface); }

template <class T>
void tell(const std::vector<T>& from, const std::vector<T>& to, std::vector<std::string>& out) {
  std::vector<T> only;
  std::ranges::set_difference(from, to, std::back_inserter(only));
  for (const auto& one : only) out.push_back(sentence(one));
}

// An operator's own route to the address, as plain bundles need one, would win: then ours is put before it. Not when
// the container leaves, since what a hold has kept goes first.
Result<> win_over_own_routes(Netlink& netlink, const Placement& placement) {
  if (placement.away.empty()) return {};
  TS_TRY_ASSIGN(auto v4, ip({"-j", "-4", "route", "show"}));
  auto v6 = ip({"-j", "-6", "route", "show"});
  for (const auto& c : placement.away) {
    auto tunnel = netlink.link_index(c.tunnel);
    if (c.staged || c.back || !tunnel) continue;
    for (const auto& a : c.addresses)
      if (beaten_by_own_route(a.is_v4() ? v4 : v6.value_or(""), a.text()))
        // Before those without a metric, which IPv6 takes for 1024.
        TS_TRY(netlink.put_route_first({a, *tunnel, {}, a.is_v4() ? 0U : 1U, kPlacementProtocol}));
  }
  return {};
}

// Whether there were any.
Result<bool> remove_unwanted_ways(Netlink& netlink, const PlacedState& now, const PlacedState& wanted) {
  bool removed = false;
  for (const auto& route : now.routes) {
    if (route.table != 0 || std::ranges::contains(wanted.routes, route)) continue;
    TS_TRY_ASSIGN(auto address, IpAddress::parse(route.to));
    TS_TRY(remove_ways(netlink, address));
    removed = true;
  }
  return removed;
}

}  // namespace

Result<> PlacementKernel::apply(const Placement& placement, const std::function<bool()>& still) {
  TS_TRY_ASSIGN(PlacedState wanted, wanted_state(placement));
  TS_TRY(set_firewall(placement));
  TS_TRY(set_interfaces(placement));
  leave_out_absent(wanted);
  TS_TRY_ASSIGN(PlacedState now, placed_now());
  TS_TRY_ASSIGN(Netlink netlink, Netlink::open());
  if (!still()) return {};
  TS_TRY_ASSIGN(bool removed, remove_unwanted_ways(netlink, now, wanted));
  if (removed) {
    TS_TRY_ASSIGN(now, placed_now());
  }
  for (bool v4 : {true, false}) {
    auto changes = route_changes(now, wanted, v4);
    if (!changes.empty() && still())
      TS_TRY_CTX(ip({v4 ? "-4" : "-6", "-force", "-batch", "-"}, changes), "routes of moved containers");
  }
  return win_over_own_routes(netlink, placement);
}

Result<PlacementDifference> PlacementKernel::compare(const Placement& placement) const {
  TS_TRY_ASSIGN(PlacedState wanted, wanted_state(placement));
  leave_out_absent(wanted);
  TS_TRY_ASSIGN(PlacedState now, placed_now());
  PlacementDifference d;
  tell(wanted.routes, now.routes, d.missing);
  tell(wanted.rules, now.rules, d.missing);
  tell(wanted.neighbours, now.neighbours, d.missing);
  tell(now.routes, wanted.routes, d.extra);
  tell(now.rules, wanted.rules, d.extra);
  tell(now.neighbours, wanted.neighbours, d.extra);
  TS_TRY_ASSIGN(auto nft, sys::NftSocket::open_in_netns_of(0));
  TS_TRY_ASSIGN(bool table, nft.has(kPlacementTable));
  bool wants_table = !placement.tunnels.empty() || !is_empty(placement);
  if (table && !wants_table) d.extra.push_back(fmt::format("firewall table inet {}", kPlacementTable));
  if (!table && wants_table) d.missing.push_back(fmt::format("firewall table inet {}", kPlacementTable));
  return d;
}

Result<> set_gateway_routes() {
  auto routes = ip({"-6", "-j", "-d", "route", "show"});
  if (!routes) return {};  // no IPv6 in this kernel
  auto lines = gateway_routes(*routes);
  if (lines.empty()) return {};
  TS_TRY_CTX(ip({"-6", "-batch", "-"}, lines), "routes of a moved container to its own network");
  return {};
}

}  // namespace transship::network
