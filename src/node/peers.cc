#include "node/peers.h"

#include "base/text.h"
#include "migrate/planner.h"

namespace transship::node {
namespace {

constexpr milliseconds kConnectLimit{10'000};
constexpr uint64_t kProbeBytes = 32U << 20;
constexpr unsigned kPings = 10;

local::Peer to_proto(const state::Peer& peer) {
  local::Peer p;
  p.set_name(peer.name);
  p.set_address(peer.address);
  p.set_fingerprint(peer.fingerprint);
  return p;
}

}  // namespace

Result<local::PeerProbeReply> probe_peer(const migrate::Services& services, const std::string& address) {
  TS_TRY_ASSIGN(wire::Endpoint endpoint, wire::parse_endpoint(address));
  TS_TRY_ASSIGN(Cancel cancel, Cancel::create());
  local::PeerProbeReply reply;
  reply.set_own_fingerprint(services.identity.fingerprint().text());
  auto found = wire::probe_fingerprint(endpoint, Deadline::in(kConnectLimit), cancel);
  if (!found && !found.error().remedy().empty()) return std::unexpected(std::move(found).error());
  if (!found)
    return std::unexpected(std::move(found).error().with_remedy(
        fmt::format("is it transshipd that listens at {}?", wire::to_text(endpoint))));
  reply.set_fingerprint(found->text());
  return reply;
}

Result<local::PeerAddReply> add_peer(const migrate::Services& services, TunnelKeeper& tunnel,
                                     const local::PeerAddRequest& request) {
  if (!is_plain_name(request.name()))
    return fail(Errc::kInvalidArgument, "peer name \"{}\": letters, digits, '.', '_' and '-' only", request.name());
  TS_TRY_ASSIGN(auto fingerprint, wire::Fingerprint::parse(request.fingerprint()));
  if (fingerprint == services.identity.fingerprint())
    return fail(Errc::kInvalidArgument, "that is this node's own key: a node is not its own peer");
  state::Peer peer;
  peer.name = request.name();
  peer.fingerprint = fingerprint.text();
  if (!request.address().empty()) {
    TS_TRY_ASSIGN(wire::Endpoint endpoint, wire::parse_endpoint(request.address()));
    peer.address = wire::to_text(endpoint);
  }
  local::PeerAddReply reply;
  auto known = services.store->peer(request.name());
  if (known && known->fingerprint == peer.fingerprint) {
    TS_TRY(services.store->set_peer_address(peer.name, peer.address));
    reply.set_existed(true);
  } else if (known) {
    return std::unexpected(
        Error(Errc::kAlreadyExists,
              fmt::format("peer {} is pinned with another key, {}", peer.name, known->fingerprint))
            .with_remedy(fmt::format("if its key was really replaced: `transship peer rm {}` first", peer.name)));
  } else {
    TS_TRY(services.store->add_peer(peer));
  }
  tunnel.pinned(peer.name);
  *reply.mutable_peer() = to_proto(peer);
  return reply;
}

Result<> remove_peer(const migrate::Services& services, TunnelKeeper& tunnel, const std::string& name,
                     wire::Listener& listener) {
  TS_TRY(services.store->remove_peer(name));
  listener.drop_peer(name);
  tunnel.forget(name);
  return {};
}

Result<local::PeersReply> list_peers(const migrate::Services& services, const TunnelKeeper& tunnel) {
  TS_TRY_ASSIGN(auto peers, services.store->peers());
  local::PeersReply reply;
  for (const auto& peer : peers) *reply.add_peers() = to_proto(peer);
  tunnel.describe(reply);
  return reply;
}

Result<local::PeerCheckReply> check_peer(const migrate::Services& services, TunnelKeeper& tunnel,
                                         const std::string& name) {
  TS_TRY_ASSIGN(Cancel cancel, Cancel::create());
  TS_TRY_ASSIGN(wire::PeerTarget target, services.peer(name));
  TS_TRY_ASSIGN(auto session, wire::Session::connect(services.identity, target, services.settings.node,
                                                     Deadline::in(kConnectLimit), cancel));
  local::PeerCheckReply reply;
  TS_TRY_ASSIGN(auto known, services.store->peer(name));
  *reply.mutable_peer() = to_proto(known);
  auto deadline = Deadline::in(milliseconds(30'000));
  TS_TRY_ASSIGN(auto rtt, session->round_trip(kPings, deadline, cancel));
  reply.set_rtt_ms(static_cast<double>(rtt.count()) / 1000);
  TS_TRY_ASSIGN(double rate, session->measure_bandwidth(kProbeBytes, deadline, cancel));
  reply.set_bits_per_second(rate);
  TS_TRY_ASSIGN(double offset, migrate::clock_offset(*session, cancel));
  reply.set_clock_offset_ms(offset);
  reply.set_protocol_version(session->versions().protocol);
  peer::Request facts;
  facts.mutable_node_facts();
  TS_TRY_ASSIGN(peer::Reply answer, session->call(facts, deadline, cancel));
  *reply.mutable_facts() = answer.node_facts();
  tunnel.check(*session, reply, cancel);
  return reply;
}

}  // namespace transship::node
