#include "network/exposure.h"

#include <openssl/sha.h>

#include <algorithm>
#include <array>
#include <optional>

#include "base/text.h"
#include "network/placement.h"

namespace transship::network {
namespace {

// Of packets that are to go into a tunnel, and of connections whose replies are (both with kMarkMask): the number of
// the tunnel is added.
constexpr unsigned kRouteMark = 0x80;
constexpr unsigned kReplyMark = 0xc0;
constexpr unsigned kMarkShift = 16;
constexpr uint32_t kEntryPriority = 7'398;
// 198.18.0.0/15 is for benchmarks (RFC 2544) and routed nowhere; fd79:1ec1:2cc3::/48 is the
// unique local prefix whose 40 bits are the first ones of SHA-256("transship entry").
constexpr uint32_t kSourceV4 = 198U << 24 | 18U << 16;
constexpr std::array<uint8_t, 6> kSourceV6 = {0xfd, 0x79, 0x1e, 0xc1, 0x2c, 0xc3};
// Link-local, beside the one of names, and in the prefix of the tunnel's addresses (network/tunnel_key.h).
constexpr std::array<uint8_t, 4> kInnerV4 = {169, 254, 185, 80};
constexpr std::array<uint8_t, 16> kInnerV6 = {0xfd, 0x80, 0xeb, 0xe5, 0x86, 0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80};

unsigned number(const std::string& tunnel) { return tunnel_number_of(tunnel).value_or(0); }
unsigned zone_of(const std::string& tunnel) { return kFirstEntryZone + number(tunnel); }
std::string mark_of(unsigned kind, const std::string& tunnel) {
  return fmt::format("0x{:x}", (kind + number(tunnel)) << kMarkShift);
}
std::string set_mark(std::string_view what, unsigned kind, const std::string& tunnel) {
  return fmt::format("{0} mark set {0} mark & 0xff00ffff | {1}", what, mark_of(kind, tunnel));
}
std::string has_reply_mark(const std::string& tunnel) {
  return fmt::format("ct mark & {} == {}", kMarkMask, mark_of(kReplyMark, tunnel));
}

const char* family_word(const IpAddress& a) { return a.is_v4() ? "ip" : "ip6"; }
std::string with_port(const IpAddress& a, uint16_t port) {
  return a.is_v4() ? fmt::format("{}:{}", a.text(), port) : fmt::format("[{}]:{}", a.text(), port);
}

// To the entry's port; what is sent on its own loopback can't leave it.
std::string to_entry(const EntryPort& e, const IpAddress& a, bool local) {
  if (e.inner)
    return fmt::format("{} daddr {} {} dport {}", family_word(a), inner_address(a.is_v4()).text(), e.protocol, e.port);
  auto elsewhere = !local ? "" : a.is_v4() ? "ip daddr != 127.0.0.0/8 " : "ip6 daddr != ::1 ";
  return fmt::format("meta nfproto {} {}fib daddr type local {} dport {}", a.is_v4() ? "ipv4" : "ipv6", elsewhere,
                     e.protocol, e.port);
}

std::vector<std::string> guests_of(const Placement& p, bool v4) {
  std::vector<std::string> all;
  for (const auto& g : p.guests)
    for (const auto& a : g.addresses)
      if (a.is_v4() == v4) all.push_back(a.text());
  return all;
}
std::string set_of(const std::vector<std::string>& texts) { return "{ " + join(texts, ", ") + " }"; }

std::vector<std::string> entry_tunnels(const Placement& p) {
  std::vector<std::string> all;
  for (const auto& e : p.entries)
    if (!e.tunnel.empty() && !std::ranges::contains(all, e.tunnel)) all.push_back(e.tunnel);
  return all;
}

std::vector<std::string> exposed_tunnels(const Placement& p) {
  std::vector<std::string> all;
  for (const auto& e : p.exposed)
    if (!e.tunnel.empty() && !std::ranges::contains(all, e.tunnel)) all.push_back(e.tunnel);
  return all;
}

std::optional<IpAddress> entry_source(const Placement& p, bool v4) {
  auto found = std::ranges::find_if(p.entry_sources, [v4](const IpAddress& a) { return a.is_v4() == v4; });
  return found == p.entry_sources.end() ? std::nullopt : std::optional(*found);
}

}  // namespace

Result<unsigned> tunnel_number_of(const std::string& interface) {
  auto digits = interface.find_last_not_of("0123456789");
  auto text = digits == std::string::npos ? interface : interface.substr(digits + 1);
  if (text.empty()) return fail(Errc::kInvalidArgument, "the tunnel {} has no number", interface);
  TS_TRY_ASSIGN(uint64_t n, parse_u64(text, "the number of a tunnel"));
  if (n >= kMaxEntryTunnels)
    return fail(Errc::kInvalidArgument, "ports are exposed through the first {} tunnels of a node, not {}",
                kMaxEntryTunnels, interface);
  return static_cast<unsigned>(n);
}

IpAddress inner_address(bool v4) { return v4 ? IpAddress::v4(kInnerV4) : IpAddress::v6(kInnerV6); }

std::vector<IpAddress> entry_sources(const std::string& node) {
  std::array<uint8_t, SHA256_DIGEST_LENGTH> hash;
  auto text = "transship entry " + node;
  ::SHA256(reinterpret_cast<const uint8_t*>(text.data()), text.size(), hash.data());
  uint32_t v4 = kSourceV4 | (hash[0] & 1U) << 16 | static_cast<uint32_t>(hash[1]) << 8 | hash[2];
  std::array<uint8_t, 16> v6;
  auto rest = std::ranges::copy(kSourceV6, v6.begin()).out;
  std::copy_n(hash.begin(), v6.end() - rest, rest);
  return {IpAddress::v4({static_cast<uint8_t>(v4 >> 24), static_cast<uint8_t>(v4 >> 16), static_cast<uint8_t>(v4 >> 8),
                         static_cast<uint8_t>(v4)}),
          IpAddress::v6(v6)};
}

std::vector<std::string> exposure_tunnels(const Placement& p) {
  std::vector<std::string> all;
  for (const auto& e : p.entries)
    if (!e.tunnel.empty()) all.push_back(e.tunnel);
  for (const auto& e : p.exposed)
    if (!e.tunnel.empty()) all.push_back(e.tunnel);
  std::ranges::sort(all);
  auto rest = std::ranges::unique(all);
  all.erase(rest.begin(), rest.end());
  return all;
}

void add_exposure_state(const Placement& p, PlacedState& s) {
  for (const auto& tunnel : exposure_tunnels(p)) {
    uint32_t table = kFirstEntryTable + number(tunnel);
    for (bool v4 : {true, false}) {
      s.routes.push_back({"default", v4, tunnel, table});
      s.rules.push_back(
          {.priority = kEntryPriority, .v4 = v4, .mark = (kRouteMark + number(tunnel)) << kMarkShift, .table = table});
    }
  }
}

// Replies are known by the container's address and port. Where they are for a guest they are of a connection of its
// own.
std::string entry_zone_rules(const Placement& p, bool local) {
  std::string out;
  for (const auto& e : p.entries) {
    bool comes = local || !e.inner;
    if (e.shut && comes)
      for (const auto& [a, prefix] : e.addresses) out += to_entry(e, a, local) + " drop\n";
    if (e.tunnel.empty()) continue;
    auto zone = fmt::format("ct zone set {}", zone_of(e.tunnel));
    for (const auto& [a, prefix] : e.addresses) {
      const auto* family = family_word(a);
      if (comes && !e.late) out += fmt::format("{} {}\n", to_entry(e, a, local), zone);
      if (local) continue;
      auto guests = guests_of(p, a.is_v4());
      auto back =
          fmt::format("iifname \"{}\" {}{} saddr {}", e.tunnel,
                      guests.empty() ? "" : fmt::format("{} daddr != {} ", family, set_of(guests)), family, a.text());
      out += fmt::format("{} {} sport {} {}\n{} {} type destination-unreachable {}\n", back, e.protocol,
                         e.container_port, zone, back, a.is_v4() ? "icmp" : "icmpv6", zone);
    }
  }
  return out;
}

std::string entry_port_rules(const Placement& p, bool local) {
  std::string out;
  for (const auto& e : p.entries) {
    if (e.shut || e.late || (e.inner && !local)) continue;
    auto zone = e.tunnel.empty() ? "" : fmt::format("ct zone {} ", zone_of(e.tunnel));
    for (const auto& [a, prefix] : e.addresses)
      out += fmt::format("{}{} dnat {} to {}\n", zone, to_entry(e, a, local), family_word(a),
                         with_port(a, e.container_port));
  }
  return out;
}

std::string entry_mark_rules(const Placement& p, bool local) {
  std::string out;
  for (const auto& tunnel : entry_tunnels(p))
    out +=
        fmt::format("{}ct zone {} ct direction original {}\n", local ? "" : fmt::format("iifname != \"{}\" ", tunnel),
                    zone_of(tunnel), set_mark("meta", kRouteMark, tunnel));
  return out;
}

// A tunnel that is gone for a moment has no route, and then others' would do.
std::string entry_stray_rules(const Placement& p, bool out_of_here) {
  std::string out;
  for (const auto& tunnel : entry_tunnels(p))
    out += fmt::format("{}ct zone {} ct direction original drop\n",
                       out_of_here ? fmt::format("oifname != \"{}\" ", tunnel) : "", zone_of(tunnel));
  for (const auto& tunnel : exposed_tunnels(p))
    if (out_of_here)
      out += fmt::format("oifname != \"{}\" {} ct direction reply drop\n", tunnel, has_reply_mark(tunnel));
  // A process on this host takes the loopback interface's for the largest packet of the way.
  if (out_of_here && std::ranges::any_of(p.entries, &EntryPort::inner))
    for (const auto& a : p.entry_sources)
      out += fmt::format("{} saddr {} tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu\n",
                         family_word(a), a.text());
  return out;
}

std::string entry_source_rules(const Placement& p) {
  std::string out;
  for (const auto& e : p.entries) {
    if (e.shut || e.late) continue;
    for (const auto& [a, prefix] : e.addresses) {
      const auto* family = family_word(a);
      auto neighbours = prefix == 0 ? "" : fmt::format("{} saddr {}/{}", family, a.text(), prefix);
      auto source = entry_source(p, a.is_v4());
      if (e.inner && e.tunnel.empty()) {
        // The container may go where the inner address is another host's.
        if (source)
          out += fmt::format("{0} saddr {1} {0} daddr {2} {3} dport {4} ct status dnat snat {0} to {5}\n", family,
                             inner_address(a.is_v4()).text(), a.text(), e.protocol, e.container_port, source->text());
        continue;
      }
      if (e.tunnel.empty()) {
        // As the neighbour's own route would have the replies go past this host.
        if (prefix != 0)
          out += fmt::format("{1} {0} daddr {2} {3} dport {4} ct status dnat snat {0} to ct original {0} daddr\n",
                             family, neighbours, a.text(), e.protocol, e.container_port);
        continue;
      }
      if (!source) continue;
      auto guests = guests_of(p, a.is_v4());
      for (const auto& who :
           {fmt::format("meta nfproto {} fib saddr type local", a.is_v4() ? "ipv4" : "ipv6"), std::string(neighbours),
            guests.empty() ? "" : fmt::format("{} saddr {}", family, set_of(guests))})
        if (!who.empty())
          out += fmt::format("oifname \"{}\" ct zone {} {} snat {} to {}\n", e.tunnel, zone_of(e.tunnel), who, family,
                             source->text());
    }
  }
  return out;
}

std::string exposed_rules(const Placement& p) {
  std::string out;
  for (const auto& e : p.exposed) {
    if (e.tunnel.empty()) continue;
    for (const auto& a : e.addresses)
      out += fmt::format("iifname \"{}\" {} daddr {} {} dport {} ct state new {}\n", e.tunnel, family_word(a), a.text(),
                         e.protocol, e.container_port, set_mark("ct", kReplyMark, e.tunnel));
  }
  for (const auto& tunnel : exposed_tunnels(p))
    out += fmt::format("{} ct direction reply {}\n", has_reply_mark(tunnel), set_mark("meta", kRouteMark, tunnel));
  // Those of a tunnel that is not there would take the host's own way, where nobody knows the connection.
  if (!p.exposed.empty())
    out += fmt::format("ct mark & 0x{0:x} == 0x{0:x} ct direction reply meta mark & 0x{0:x} != 0x{1:x} drop\n",
                       kReplyMark << kMarkShift, kRouteMark << kMarkShift);
  return out;
}

// While the container is on its entry, its packets come out of the tunnel that they go back into.
std::string exposed_output_rules(const Placement& p) {
  std::string out;
  for (const auto& tunnel : exposed_tunnels(p))
    out += fmt::format("icmp type redirect {} drop\n", has_reply_mark(tunnel));
  return out;
}

std::string exposed_passing_rules(const Placement& p, const std::string& tunnel) {
  std::string out;
  if (std::ranges::contains(p.entries, tunnel, &EntryPort::tunnel))
    out += fmt::format("iifname \"{}\" ct zone {} ct direction reply meta mark set {} accept\n", tunnel,
                       zone_of(tunnel), kPassMark);
  for (const auto& e : p.exposed) {
    if (e.tunnel != tunnel) continue;
    for (const auto& a : e.addresses)
      out += fmt::format("iifname \"{}\" {} daddr {} {} dport {} {} ct direction original meta mark set {} accept\n",
                         tunnel, family_word(a), a.text(), e.protocol, e.container_port, has_reply_mark(tunnel),
                         kPassMark);
  }
  return out;
}

}  // namespace transship::network
