#include "network/placement.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>

#include "base/text.h"
#include "network/netlink.h"

namespace transship::network {
namespace {

using nlohmann::json;

// One table for each tunnel interface that is the way home of somebody.
constexpr uint32_t kFirstTable = 74'100;
constexpr uint32_t kReplyPriority = 7'399;
constexpr uint32_t kGuestPriority = 7'400;
constexpr uint32_t kReplyMark = 0x750000;

template <class T>
void tidy(std::vector<T>& all) {
  std::ranges::sort(all);
  auto rest = std::ranges::unique(all);
  all.erase(rest.begin(), rest.end());
}

bool is_interface_name(const std::string& name) {
  return !name.empty() && name.size() < 16 &&
         std::ranges::all_of(
             name,
             [](char c) {
               return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_' || c == '.';
             });
}

Result<> check_names(const Placement& p) {
  std::set<std::string> names(p.tunnels.begin(), p.tunnels.end());
  std::set<IpAddress> addresses;
  auto take = [&](const std::string& id, const std::vector<IpAddress>& of) -> Result<> {
    for (const auto& a : of)
      if (!addresses.insert(a).second) return fail(Errc::kInvalidArgument, "{}: {} is another's as well", id, a.text());
    return {};
  };
  for (const auto& c : p.away) {
    names.insert({c.tunnel, c.bridge});
    TS_TRY(take(c.id, c.addresses));
  }
  for (const auto& c : p.guests) {
    names.insert({c.tunnel, c.bridge});
    names.insert(c.late.begin(), c.late.end());
    TS_TRY(take(c.id, c.addresses));
  }
  for (const auto& tunnel : exposure_tunnels(p)) {
    names.insert(tunnel);
    TS_TRY(tunnel_number_of(tunnel));
  }
  for (const auto& name : names)
    if (!is_interface_name(name)) return fail(Errc::kInvalidArgument, "\"{}\" is no name of an interface", name);
  return {};
}

// By its place in the list of all tunnels, which does not change while they are there.
uint32_t table_of(const Placement& p, const std::string& tunnel) {
  auto at = std::ranges::find(p.tunnels, tunnel);
  return kFirstTable + static_cast<uint32_t>(at - p.tunnels.begin());
}

const char* family_word(bool v4) { return v4 ? "ip" : "ip6"; }

// "{ 10.88.0.3, 10.88.0.4 }"
std::string set_of(const std::vector<IpAddress>& addresses) {
  std::vector<std::string> texts;
  for (const auto& a : addresses) texts.push_back(a.text());
  return "{ " + join(texts, ", ") + " }";
}

std::string quoted_set(const std::vector<std::string>& names) {
  std::vector<std::string> texts;
  for (const auto& n : names) texts.push_back('"' + n + '"');
  return "{ " + join(texts, ", ") + " }";
}

// Of both families, those of one.
std::vector<IpAddress> of_family(const std::vector<IpAddress>& addresses, bool v4) {
  std::vector<IpAddress> some;
  for (const auto& a : addresses)
    if (a.is_v4() == v4) some.push_back(a);
  return some;
}

// Through one tunnel: sources are containers that are behind it, or destinations are containers that live here and
// whose packets come that way. A peer's own tunnel address is the tunnel table's affair.
std::string passing_rules(const Placement& p, const std::string& tunnel) {
  std::vector<IpAddress> sources;
  std::vector<IpAddress> destinations;
  for (const auto& c : p.away) {
    if (c.tunnel != tunnel) continue;
    if (!c.back) sources.insert(sources.end(), c.addresses.begin(), c.addresses.end());
    if (c.late) destinations.insert(destinations.end(), c.addresses.begin(), c.addresses.end());
  }
  for (const auto& c : p.guests)
    if (c.tunnel == tunnel || std::ranges::contains(c.late, tunnel))
      destinations.insert(destinations.end(), c.addresses.begin(), c.addresses.end());
  std::string out = exposed_passing_rules(p, tunnel);
  for (bool v4 : {true, false}) {
    if (auto some = of_family(sources, v4); !some.empty())
      out += fmt::format("iifname \"{}\" {} saddr {} meta mark set {} accept\n", tunnel, family_word(v4), set_of(some),
                         kPassMark);
    if (auto some = of_family(destinations, v4); !some.empty())
      out += fmt::format("iifname \"{}\" {} daddr {} meta mark set {} accept\n", tunnel, family_word(v4), set_of(some),
                         kPassMark);
  }
  return out + fmt::format(
                   "iifname \"{}\" icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded, "
                   "parameter-problem }} accept\niifname \"{}\" counter drop\n",
                   tunnel, tunnel);
}

// Before the engine's rules, which would translate for a network of this host: a guest's packets go home as they are,
// and there they are translated as if it had never left.
std::string source_rules(const Placement& p) {
  std::string out;
  for (const auto& c : p.guests)
    for (const auto& a : c.addresses)
      out += fmt::format("{0} saddr {1} oifname \"{2}\" snat {0} to {1}\n", family_word(a.is_v4()), a.text(), c.tunnel);
  for (const auto& c : p.away) {
    if (c.back) continue;
    auto inside = p.tunnels;
    inside.push_back(c.bridge);
    for (const auto& a : c.addresses)
      out +=
          fmt::format("{} saddr {} oifname != {} masquerade\n", family_word(a.is_v4()), a.text(), quoted_set(inside));
  }
  return out;
}

std::string port_rules(const Placement& p) {
  std::string out;
  for (const auto& c : p.away) {
    if (c.staged || c.back) continue;  // the engine's own do it
    for (const auto& port : c.ports) {
      for (const auto& a : c.addresses) {
        bool given = port.host_address.has_value();
        if (given && port.host_address->is_v4() != a.is_v4()) continue;
        auto to = a.is_v4() ? a.text() : "[" + a.text() + "]";
        out += fmt::format("{} {} dport {} dnat {} to {}:{}\n",
                           given ? fmt::format("{} daddr {}", family_word(a.is_v4()), port.host_address->text())
                                 : fmt::format("meta nfproto {} fib daddr type local", a.is_v4() ? "ipv4" : "ipv6"),
                           port.protocol, port.host_port, family_word(a.is_v4()), to, port.container_port);
      }
    }
  }
  return out;
}

// A guest that answers who came through a port of this host answers through this host.
std::string reply_rules(const Placement& p) {
  std::string out;
  for (const auto& c : p.guests)
    for (const auto& a : c.addresses)
      out += fmt::format("iifname \"{}\" {} saddr {} ct direction reply ct status dnat meta mark set 0x{:x}\n",
                         c.bridge, family_word(a.is_v4()), a.text(), kReplyMark);
  return out;
}

std::string chain(std::string_view name, std::string_view hook, const std::string& rules) {
  return rules.empty() ? "" : fmt::format("chain {} {{ {}; policy accept;\n{}}}\n", name, hook, rules);
}

std::string text_at(const json& j, const char* name) {
  auto found = j.find(name);
  return found != j.end() && found->is_string() ? found->get<std::string>() : std::string();
}

// "main", or a number.
Result<uint32_t> table_at(const json& j) {
  auto text = text_at(j, "table");
  if (text.empty() || text == "main") return 0U;
  TS_TRY_ASSIGN(uint64_t number, parse_u64(text, "a routing table"));
  return static_cast<uint32_t>(number);
}

Result<json> parse_list(const std::string& text, std::string_view what) {
  auto j = json::parse(trim(text).empty() ? "[]" : text, nullptr, false);
  if (!j.is_array()) return fail(Errc::kCorrupt, "the list of {} that `ip` gives is none", what);
  return j;
}

// Both families stand in one list: an address tells its own, a default route only that it has no colon.
bool is_v4_text(const std::string& address) { return !address.contains(':'); }

// Whatever its metric: one that somebody else has set is to go as well.
std::string route_line(const PlacedRoute& r) {
  return fmt::format("route {{}} {} dev {}{} proto {}\n", r.to, r.interface,
                     r.table == 0 ? "" : fmt::format(" table {}", r.table), kPlacementProtocol);
}
std::string new_route_line(const PlacedRoute& r) {
  return r.table == 0 ? fmt::format("{} metric {}\n", trim(route_line(r)), kPlacementMetric) : route_line(r);
}
std::string rule_line(const PlacedRule& r) {
  std::string selector = r.mark != 0 ? fmt::format("fwmark 0x{:x}/{}", r.mark, kMarkMask)
                                     : fmt::format("from {} iif {}", r.from, r.interface);
  return fmt::format("rule {{}} pref {} {} table {} protocol {}\n", r.priority, selector,
                     r.table == 0 ? "main" : std::to_string(r.table), kPlacementProtocol);
}
std::string neighbour_line(const PlacedNeighbour& n) {
  return fmt::format("neigh {{}} proxy {} dev {} protocol {}\n", n.address, n.interface, kPlacementProtocol);
}

template <class T>
std::string changes(const std::vector<T>& from, const std::vector<T>& to, bool v4, std::string_view verb,
                    std::string (*line)(const T&)) {
  std::vector<T> only;
  std::ranges::set_difference(from, to, std::back_inserter(only));
  std::string out;
  for (const auto& one : only)
    if (one.v4 == v4) out += fmt::format(fmt::runtime(line(one)), verb);
  return out;
}

}  // namespace

Result<PlacedState> wanted_state(const Placement& p) {
  TS_TRY(check_names(p));
  PlacedState s;
  for (const auto& c : p.away) {
    if (c.staged || c.back) continue;
    for (const auto& a : c.addresses) {
      s.routes.push_back({a.text(), a.is_v4(), c.tunnel, 0});
      if (!c.bridge.empty()) s.neighbours.push_back({a.text(), a.is_v4(), c.bridge});
    }
  }
  for (const auto& c : p.guests) {
    uint32_t table = table_of(p, c.tunnel);
    for (const auto& a : c.addresses) {
      s.routes.push_back({"default", a.is_v4(), c.tunnel, table});
      // Of one home: they reach one another here.
      s.routes.push_back({a.text(), a.is_v4(), c.bridge, table});
      s.rules.push_back(
          {.priority = kGuestPriority, .v4 = a.is_v4(), .from = a.text(), .interface = c.bridge, .table = table});
      s.rules.push_back({.priority = kReplyPriority, .v4 = a.is_v4(), .mark = kReplyMark});
    }
  }
  add_exposure_state(p, s);
  tidy(s.routes);
  tidy(s.rules);
  tidy(s.neighbours);
  return s;
}

std::string firewall_script(const Placement& p) {
  auto out = fmt::format("table inet {0}\ndelete table inet {0}\n", kPlacementTable);
  if (p.tunnels.empty() && is_empty(p)) return out;
  std::string passing;
  for (const auto& tunnel : p.tunnels) passing += passing_rules(p, tunnel);
  auto ports = port_rules(p);
  // Before tracking and its exceptions; after what changes destinations.
  constexpr const char* kEarly = "type filter hook {} priority raw - 1";
  return out + fmt::format("table inet {} {{\n", kPlacementTable) +
         chain("passing", "type filter hook forward priority filter", passing) +
         chain("source", "type nat hook postrouting priority srcnat - 1", entry_source_rules(p) + source_rules(p)) +
         chain("entries", fmt::format(kEarly, "prerouting"), entry_zone_rules(p, false)) +
         chain("local_entries", fmt::format(kEarly, "output"), entry_zone_rules(p, true)) +
         chain("ports", "type nat hook prerouting priority dstnat - 1", ports + entry_port_rules(p, false)) +
         chain("local_ports", "type nat hook output priority -101", ports + entry_port_rules(p, true)) +
         chain("ways", "type filter hook prerouting priority dstnat + 1", entry_mark_rules(p, false)) +
         chain("local_ways", "type route hook output priority dstnat + 1", entry_mark_rules(p, true)) +
         chain("strays", "type filter hook postrouting priority srcnat + 10", entry_stray_rules(p, true)) +
         chain("local_strays", "type filter hook input priority filter", entry_stray_rules(p, false)) +
         chain("redirects", "type filter hook output priority filter", exposed_output_rules(p)) +
         chain("replies", "type filter hook prerouting priority mangle", reply_rules(p) + exposed_rules(p)) + "}\n";
}

std::string gateway_routes(const std::string& routes_v6) {
  auto list = json::parse(routes_v6, nullptr, false);
  std::string out;
  for (const auto& gateway : list) {
    if (text_at(gateway, "dst") != "default" || text_at(gateway, "gateway").empty()) continue;
    for (const auto& on_link : list) {
      auto prefix = text_at(on_link, "dst");
      auto slash = prefix.find('/');
      if (text_at(on_link, "dev") != text_at(gateway, "dev") || text_at(on_link, "protocol") != "kernel" ||
          slash == std::string::npos || prefix.starts_with("fe80") || prefix.starts_with("ff"))
        continue;
      auto base = IpAddress::parse(prefix.substr(0, slash));
      auto bits = parse_u64(prefix.substr(slash + 1), "a prefix");
      if (!base || !bits || *bits >= 127) continue;
      std::array<uint8_t, 16> upper;
      std::copy_n(base->data(), upper.size(), upper.begin());
      upper[*bits / 8] = static_cast<uint8_t>(upper[*bits / 8] | 0x80U >> *bits % 8);
      for (const auto& half : {base->text(), IpAddress::v6(upper).text()})
        out += fmt::format("route replace {}/{} via {} dev {} onlink proto {}\n", half, *bits + 1,
                           text_at(gateway, "gateway"), text_at(gateway, "dev"), kPlacementProtocol);
    }
  }
  return out;
}

std::string route_changes(const PlacedState& now, const PlacedState& wanted, bool v4) {
  return changes(now.rules, wanted.rules, v4, "del", rule_line) +
         changes(now.neighbours, wanted.neighbours, v4, "del", neighbour_line) +
         changes(now.routes, wanted.routes, v4, "del", route_line) +
         changes(wanted.routes, now.routes, v4, "replace", new_route_line) +
         changes(wanted.neighbours, now.neighbours, v4, "replace", neighbour_line) +
         changes(wanted.rules, now.rules, v4, "add", rule_line);
}

namespace {

Result<> parse_routes(const std::string& text, PlacedState& s) {
  TS_TRY_ASSIGN(json list, parse_list(text, "routes"));
  for (const auto& j : list) {
    PlacedRoute r{.to = text_at(j, "dst"), .interface = text_at(j, "dev")};
    r.v4 = r.to == "default" ? !j.contains("pref") : is_v4_text(r.to);  // only IPv6 routes have a preference
    TS_TRY_ASSIGN(r.table, table_at(j));
    s.routes.push_back(std::move(r));
  }
  return {};
}

Result<> parse_rules(const std::string& text, bool v4, PlacedState& s) {
  TS_TRY_ASSIGN(json list, parse_list(text, "rules"));
  for (const auto& j : list) {
    if (text_at(j, "protocol") != std::to_string(kPlacementProtocol)) continue;
    PlacedRule r{.v4 = v4, .from = text_at(j, "src"), .interface = text_at(j, "iif")};
    if (r.from == "all") r.from.clear();
    if (auto mark = text_at(j, "fwmark"); !mark.empty())
      r.mark = static_cast<uint32_t>(std::strtoul(mark.c_str(), nullptr, 0));
    r.priority = j.value("priority", 0U);
    TS_TRY_ASSIGN(r.table, table_at(j));
    s.rules.push_back(std::move(r));
  }
  return {};
}

}  // namespace

bool beaten_by_own_route(const std::string& routes, const std::string& address) {
  auto list = json::parse(routes, nullptr, false);
  if (!list.is_array()) return false;
  bool theirs = false;
  bool ours_first = false;
  for (const auto& r : list) {
    if (!r.is_object() || text_at(r, "dst") != address) continue;
    auto by = text_at(r, "protocol");
    auto metric = r.value("metric", 0U);
    if (by == std::to_string(kPlacementProtocol))
      ours_first = ours_first || metric < kPlacementMetric;
    else if (by != std::to_string(HostRoute::kProtocol))
      theirs = theirs || metric < kPlacementMetric;
  }
  return theirs && !ours_first;
}

Result<PlacedState> parse_placed_state(const IpListings& listings) {
  PlacedState s;
  TS_TRY(parse_routes(listings.routes, s));
  TS_TRY(parse_rules(listings.rules_v4, true, s));
  TS_TRY(parse_rules(listings.rules_v6, false, s));
  TS_TRY_ASSIGN(json list, parse_list(listings.neighbours, "neighbours"));
  for (const auto& j : list) {
    if (text_at(j, "protocol") != std::to_string(kPlacementProtocol)) continue;
    auto address = text_at(j, "dst");
    s.neighbours.push_back({address, is_v4_text(address), text_at(j, "dev")});
  }
  tidy(s.routes);
  tidy(s.rules);
  tidy(s.neighbours);
  return s;
}

}  // namespace transship::network
