#include "network/tunnel_config.h"

#include <algorithm>

#include "base/text.h"

namespace transship::network {
namespace {

constexpr std::string_view kNone = "(none)";
constexpr size_t kInterfaceFields = 4;
constexpr size_t kPeerFields = 8;
constexpr size_t kMaxDump = 4U << 20;

Result<uint16_t> parse_port(std::string_view text) {
  TS_TRY_ASSIGN(uint64_t port, parse_u64(text, "port"));
  if (port > 65535) return fail(Errc::kInvalidArgument, "{} is no port", port);
  return static_cast<uint16_t>(port);
}

std::vector<std::string> parse_allowed(std::string_view text) {
  std::vector<std::string> allowed;
  if (text != kNone) allowed = split(text, ',');
  std::ranges::sort(allowed);
  return allowed;
}

Result<WgPeer> parse_peer(const std::vector<std::string>& f) {
  WgPeer peer;
  TS_TRY_ASSIGN(peer.key, TunnelPublicKey::parse(f[0]));
  if (f[2] != kNone) {
    TS_TRY_ASSIGN(peer.endpoint, parse_udp_endpoint(f[2]));
  }
  peer.allowed = parse_allowed(f[3]);
  TS_TRY_ASSIGN(uint64_t handshake, parse_u64(f[4], "time of a handshake"));
  peer.handshake_unix_s = static_cast<int64_t>(std::min<uint64_t>(handshake, INT64_MAX));
  TS_TRY_ASSIGN(peer.received_bytes, parse_u64(f[5], "received bytes"));
  TS_TRY_ASSIGN(peer.sent_bytes, parse_u64(f[6], "sent bytes"));
  if (f[7] != "off") {
    TS_TRY_ASSIGN(uint64_t keepalive, parse_u64(f[7], "keep-alive"));
    peer.keepalive_s = static_cast<unsigned>(std::min<uint64_t>(keepalive, 65535));
  }
  return peer;
}

// Secret key, public key, port, mark.
Result<WgState> parse_interface(const std::vector<std::string>& f) {
  WgState state;
  if (f[1] != kNone) {
    TS_TRY_ASSIGN(state.key, TunnelPublicKey::parse(f[1]));
  }
  TS_TRY_ASSIGN(state.port, parse_port(f[2]));
  return state;
}

bool is_fresh(const WgPeer& peer, int64_t now_unix_s) {
  return peer.handshake_unix_s > 0 && now_unix_s - peer.handshake_unix_s < kTunnelFreshS;
}

// Nothing: it is as it should be.
std::optional<WantedPeer> change_of(const WgPeer& now, const WantedPeer& wanted, int64_t now_unix_s) {
  WantedPeer change = wanted;
  change.set_endpoint =
      wanted.endpoint && wanted.endpoint != now.endpoint && !(now.endpoint && is_fresh(now, now_unix_s));
  if (change.set_endpoint || now.allowed != wanted.allowed || now.keepalive_s != kTunnelKeepaliveS) return change;
  return std::nullopt;
}

}  // namespace

Result<UdpEndpoint> parse_udp_endpoint(std::string_view text) {
  size_t colon = text.rfind(':');
  bool v6 = text.starts_with('[');
  if (colon == std::string_view::npos || (v6 && (colon < 2 || text[colon - 1] != ']')))
    return fail(Errc::kInvalidArgument, "\"{}\" is not ADDRESS:PORT", text.substr(0, 64));
  UdpEndpoint endpoint;
  // "fe80::1%eth0": learnt from a neighbour; the interface is the kernel's affair.
  auto address = v6 ? text.substr(1, colon - 2) : text.substr(0, colon);
  if (v6 != address.contains(':'))
    return fail(Errc::kInvalidArgument, "\"{}\" is not ADDRESS:PORT", text.substr(0, 64));
  TS_TRY_ASSIGN(endpoint.address, IpAddress::parse(address.substr(0, address.find('%'))));
  TS_TRY_ASSIGN(endpoint.port, parse_port(text.substr(colon + 1)));
  return endpoint;
}

std::string to_text(const UdpEndpoint& endpoint) {
  auto address = endpoint.address.text();
  return endpoint.address.is_v4() ? fmt::format("{}:{}", address, endpoint.port)
                                  : fmt::format("[{}]:{}", address, endpoint.port);
}

Result<WgState> parse_wg_dump(std::string_view text) {
  // NB: nothing is quoted. Where lines are not what we take them for, anything may be the secret key.
  auto wrong = [](size_t line, std::string_view why) {
    return fail(Errc::kCorrupt, "what wg shows of an interface, line {}: {}", line, why);
  };
  if (text.size() > kMaxDump) return wrong(1, "too long");
  auto lines = split(trim(text), '\n');
  auto first = split(lines[0], '\t');
  if (first.size() != kInterfaceFields) return wrong(1, fmt::format("{} fields", first.size()));
  auto state = parse_interface(first);
  if (!state) return wrong(1, "no interface's key and port");
  for (size_t i = 1; i < lines.size(); ++i) {
    auto fields = split(lines[i], '\t');
    if (fields.size() != kPeerFields) return wrong(i + 1, fmt::format("{} fields", fields.size()));
    auto peer = parse_peer(fields);
    if (!peer) return wrong(i + 1, "no peer's key, addresses and numbers");
    state->peers.push_back(std::move(*peer));
  }
  return state;
}

WgChange difference(const WgState& now, const WantedState& wanted, int64_t now_unix_s) {
  WgChange change;
  change.interface = now.key != wanted.key || now.port != wanted.port;
  for (const auto& peer : wanted.peers) {
    auto there = std::ranges::find(now.peers, peer.key, &WgPeer::key);
    if (there == now.peers.end()) {
      change.put.push_back(peer);
    } else if (auto changed = change_of(*there, peer, now_unix_s)) {
      change.put.push_back(std::move(*changed));
    }
  }
  for (const auto& peer : now.peers) {
    if (std::ranges::find(wanted.peers, peer.key, &WantedPeer::key) == wanted.peers.end())
      change.remove.push_back(peer.key);
  }
  return change;
}

WgChange begin_again(const WgState& now, const WantedState& wanted) {
  WgChange change;
  for (const auto& peer : wanted.peers) {
    if (!peer.endpoint || peer.endpoint->address.is_v4()) continue;
    auto there = std::ranges::find(now.peers, peer.key, &WgPeer::key);
    if (there == now.peers.end() || there->handshake_unix_s > 0) continue;
    change.remove.push_back(peer.key);
    change.put.push_back(peer);
  }
  return change;
}

std::string wg_config(const WgChange& change, const std::string& secret, uint16_t port) {
  std::string text;
  if (change.interface) text += fmt::format("[Interface]\nPrivateKey = {}\nListenPort = {}\n", secret, port);
  for (const auto& peer : change.put) {
    text += fmt::format("[Peer]\nPublicKey = {}\nAllowedIPs = {}\nPersistentKeepalive = {}\n", peer.key.text(),
                        join(peer.allowed, ", "), kTunnelKeepaliveS);
    if (peer.endpoint && peer.set_endpoint) text += fmt::format("Endpoint = {}\n", to_text(*peer.endpoint));
  }
  return text;
}

std::vector<std::string> all_addresses() { return {"0.0.0.0/0", "::/0"}; }

}  // namespace transship::network
