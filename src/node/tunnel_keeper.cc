#include "node/tunnel_keeper.h"

#include <algorithm>

#include "base/log.h"

namespace transship::node {
namespace {

using network::TunnelPublicKey;

constexpr milliseconds kLookEvery{30'000};
constexpr milliseconds kRetryEvery{5000};
constexpr milliseconds kWatchEvery{1000};
constexpr milliseconds kSessionLimit{10'000};
constexpr milliseconds kPingLimit{3000};
// Between two calls of a peer that did not answer, or does not know us yet: doubled each time.
constexpr milliseconds kFirstPause{2000};
constexpr milliseconds kLongestPause{300'000};
// Between two calls of one that did answer, but is silent in the tunnel.
constexpr milliseconds kSilentPause{60'000};
// New ends are hurried a few times, with time for an answer in between; WireGuard goes on by itself.
constexpr milliseconds kHurryEvery{1000};
constexpr unsigned kHurries = 10;

// The address by which it is known here, when that is a number; a session may come from another one.
std::string host_of(const state::Peer& peer, const std::string& seen) {
  if (peer.address.empty()) return seen;
  auto pinned = wire::parse_endpoint(peer.address);
  return pinned && network::IpAddress::parse(pinned->host) ? pinned->host : seen;
}

Result<network::TunnelPeer> to_tunnel_peer(const state::TunnelEnd& end, unsigned number) {
  TS_TRY_ASSIGN(auto key, TunnelPublicKey::from_bytes(end.public_key));
  network::TunnelPeer peer{.name = end.peer, .number = number, .key = key, .endpoint = {}};
  if (auto address = network::IpAddress::parse(end.host); address)
    peer.endpoint = network::UdpEndpoint{*address, end.port};
  return peer;
}

}  // namespace

Result<std::unique_ptr<TunnelKeeper>> TunnelKeeper::start(migrate::Services& services,
                                                          const TunnelKeeperOptions& options) {
  TS_TRY_ASSIGN(Cancel stop, Cancel::create());
  std::unique_ptr<TunnelKeeper> keeper(new TunnelKeeper(services, std::move(stop)));
  auto prepared = keeper->prepare(options);
  if (!prepared) keeper->why_none_ = prepared.error().message();
  keeper->log_change(prepared);
  if (!keeper->tunnel_) return keeper;
  keeper->log_change(keeper->sync());
  keeper->hurry_soon();  // in case the interface is new
  keeper->thread_ = Thread("tunnel", [k = keeper.get()] { k->run(); });
  return keeper;
}

TunnelKeeper::~TunnelKeeper() {
  {
    MutexLock lock(mu_);
    stop_.cancel("the daemon ends");
    changed_.notify_all();
  }
  thread_.join();
}

Result<> TunnelKeeper::prepare(const TunnelKeeperOptions& options) {
  if (!options.enabled) {
    why_none_ = "switched off in the configuration (tunnel.enabled)";
    return network::take_tunnels_down(options.tunnel.run_dir);
  }
  TS_TRY_ASSIGN(auto key, network::TunnelKey::load_or_create(options.key_file));
  tunnel_ = std::make_unique<network::Tunnels>(options.tunnel, std::move(key));
  return {};
}

void TunnelKeeper::run() {
  while (!stop_.cancelled()) {
    auto up = sync();
    log_change(up);
    if (up) look_after_peers();
    hurry_new_ends();
    MutexLock lock(mu_);
    auto until = Deadline::in(up ? kLookEvery : kRetryEvery);
    if (hurries_left_ > 0) until = until.sooner(next_hurry_);
    for (const auto& [name, contact] : contacts_) {
      if (!contact.known && contact.next_try > Clock::now())
        until = until.sooner(Deadline::in(std::chrono::ceil<milliseconds>(contact.next_try - Clock::now())));
    }
    while (!woken_ && !stop_.cancelled() && !until.passed()) {
      changed_.wait_until(mu_, until.sooner(Deadline::in(kWatchEvery)).at());
      if (!tunnel_->notice_end()) continue;
      hurry_soon_locked();
    }
    woken_ = false;
  }
}

// One thread only; answers to calls may come in meanwhile.
void TunnelKeeper::look_after_peers() {
  auto peers = services_.store->peers();
  auto status = tunnel_->peers();
  if (!peers) return;
  for (const auto& peer : *peers) {
    if (peer.address.empty()) continue;  // it calls us
    auto found = status.find(peer.name);
    bool answers = found != status.end() && found->second.answers();
    {
      MutexLock lock(mu_);
      Contact& contact = contacts_[peer.name];
      bool wanted = std::exchange(contact.wanted, false);
      if (!wanted && (answers || contact.next_try > Clock::now())) continue;
    }
    note(peer.name, call(peer.name));
    if (stop_.cancelled()) return;
  }
}

void TunnelKeeper::hurry_soon() {
  MutexLock lock(mu_);
  hurry_soon_locked();
}

void TunnelKeeper::hurry_soon_locked() {
  hurries_left_ = kHurries;
  next_hurry_ = Deadline::in(kHurryEvery);
  woken_ = true;
  changed_.notify_all();
}

void TunnelKeeper::hurry_new_ends() {
  auto next = Deadline::in(kHurryEvery);
  {
    MutexLock lock(mu_);
    if (hurries_left_ == 0 || !next_hurry_.passed()) return;
    --hurries_left_;
    next_hurry_ = next;
  }
  auto hurried = tunnel_->hurry_peers();
  if (hurried && *hurried > 0) return;
  MutexLock lock(mu_);
  if (next_hurry_.at() == next.at()) hurries_left_ = 0;  // else there is a newer end
}

void TunnelKeeper::note(const std::string& peer, const Result<>& outcome) {
  MutexLock lock(mu_);
  Contact& contact = contacts_[peer];
  if (outcome) {
    contact.pause = kSilentPause;
    contact.problem.clear();
  } else {
    contact.pause = std::clamp(contact.pause * 2, kFirstPause, kLongestPause);
    contact.problem = outcome.error().message();
    TS_LOG_DEBUG("tunnel peer={} no key: {}", peer, contact.problem);
  }
  contact.next_try = Clock::now() + contact.pause;
}

void TunnelKeeper::log_change(const Result<>& outcome) {
  std::string trouble = outcome ? "" : outcome.error().message();
  MutexLock lock(mu_);
  if (trouble == last_trouble_) return;
  last_trouble_ = trouble;
  if (trouble.empty())
    TS_LOG_INFO("tunnel: {}", tunnel_ ? "as it should be" : "none");
  else
    TS_LOG_WARN("tunnel: {} {}", trouble, outcome.error().remedy());
}

Result<> TunnelKeeper::sync() {
  MutexLock turn(syncing_);
  TS_TRY_ASSIGN(auto ends, services_.store->tunnel_ends());
  std::vector<network::TunnelPeer> peers;
  std::map<std::string, bool> known;
  for (const auto& end : ends) {
    TS_TRY_ASSIGN(unsigned number, services_.store->tunnel_number(end.peer));
    TS_TRY_ASSIGN(auto peer, to_tunnel_peer(end, number));
    peers.push_back(std::move(peer));
    known[end.peer] = true;
  }
  {
    MutexLock lock(mu_);
    for (auto& [name, contact] : contacts_) contact.known = known.contains(name);
    for (const auto& [name, yes] : known) contacts_[name].known = yes;
  }
  return tunnel_->set_peers(peers);
}

Result<> TunnelKeeper::learn(const std::string& peer, const peer::TunnelEnd& end, const std::string& host) {
  auto what = fmt::format("the tunnel key that {} gives", peer);
  auto key = TunnelPublicKey::from_bytes(end.public_key());
  if (!key) return std::unexpected(std::move(key).error().context(what));
  if (*key == tunnel_->public_key()) return fail(Errc::kInvalidArgument, "{} is this node's own", what);
  if (end.port() == 0 || end.port() > 65535)
    return fail(Errc::kInvalidArgument, "{} comes with {} for a port", what, end.port());
  TS_TRY_ASSIGN(auto known, services_.store->peer(peer));
  TS_TRY_CTX(services_.store->put_tunnel_end(
                 {peer, end.public_key(), host_of(known, host), static_cast<uint16_t>(end.port())}),
             what);
  TS_TRY(sync());
  hurry_soon();
  return {};
}

Result<peer::TunnelEnd> TunnelKeeper::own_end(const std::string& peer) const {
  TS_TRY_ASSIGN(unsigned number, services_.store->tunnel_number(peer));
  peer::TunnelEnd end;
  end.set_public_key(tunnel_->public_key().bytes());
  end.set_port(tunnel_->port_of(number));
  return end;
}

Result<> TunnelKeeper::exchange(wire::Session& session, const std::string& peer, const Cancel& cancel) {
  peer::Request request;
  TS_TRY_ASSIGN(*request.mutable_tunnel()->mutable_end(), own_end(peer));
  TS_TRY_ASSIGN(peer::Reply reply, session.call(request, Deadline::in(kSessionLimit), cancel));
  return learn(peer, reply.tunnel(), session.remote().host);
}

Result<> TunnelKeeper::call(const std::string& peer) {
  TS_TRY_ASSIGN(wire::PeerTarget target, services_.peer(peer));
  TS_TRY_ASSIGN(auto session, wire::Session::connect(services_.identity, target, services_.settings.node,
                                                     Deadline::in(kSessionLimit), stop_));
  return exchange(*session, peer, stop_);
}

Result<peer::Reply> TunnelKeeper::answer(const std::string& peer, const wire::Endpoint& remote,
                                         const peer::TunnelRequest& request) {
  if (!tunnel_) return fail(Errc::kRefused, "node {} has no tunnel: {}", services_.settings.node, why_none_);
  auto learnt = learn(peer, request.end(), remote.host);
  if (!learnt) {
    TS_LOG_WARN("tunnel peer={} refused: {}", peer, learnt.error().message());
    return std::unexpected(std::move(learnt).error());
  }
  note(peer, {});
  peer::Reply reply;
  TS_TRY_ASSIGN(*reply.mutable_tunnel(), own_end(peer));
  return reply;
}

void TunnelKeeper::met(const std::string& peer) {
  if (!tunnel_) return;
  MutexLock lock(mu_);
  Contact& contact = contacts_[peer];
  if (contact.known) return;
  contact.next_try = {};
  contact.pause = {};
  woken_ = true;
  changed_.notify_all();
}

void TunnelKeeper::pinned(const std::string& peer) {
  if (!tunnel_) return;
  MutexLock lock(mu_);
  Contact& contact = contacts_[peer];
  contact.wanted = true;
  contact.pause = {};
  woken_ = true;
  changed_.notify_all();
}

void TunnelKeeper::forget(const std::string& peer) {
  if (!tunnel_) return;
  {
    MutexLock lock(mu_);
    contacts_.erase(peer);
  }
  log_change(sync());
}

local::Tunnel TunnelKeeper::info() const {
  local::Tunnel info;
  if (!tunnel_) {
    info.set_backend("none: " + why_none_);
    return info;
  }
  auto status = tunnel_->status();
  info.set_backend(status.backend);
  info.set_interface(tunnel_->options().interface);
  info.set_public_key(tunnel_->public_key().text());
  info.set_address(tunnel_->address().text());
  info.set_port(tunnel_->options().port);
  info.set_mtu(status.mtu);
  return info;
}

void TunnelKeeper::describe_one(local::Peer& peer, const std::map<std::string, state::TunnelEnd>& ends,
                                const std::map<std::string, network::TunnelPeerStatus>& status) const {
  if (auto end = ends.find(peer.name()); end != ends.end()) {
    if (auto key = TunnelPublicKey::from_bytes(end->second.public_key); key)
      peer.set_tunnel_address(key->address().text());
  }
  if (auto found = status.find(peer.name()); found != status.end()) {
    if (found->second.handshake_age)
      peer.set_tunnel_handshake_age_s(static_cast<uint64_t>(found->second.handshake_age->count()));
    peer.set_tunnel_answers(found->second.answers());
  }
  if (auto interface = tunnel_->interface_to(peer.name()); interface) peer.set_tunnel_interface(*interface);
  MutexLock lock(mu_);
  auto contact = contacts_.find(peer.name());
  if (contact != contacts_.end() && !peer.tunnel_answers()) peer.set_tunnel_problem(contact->second.problem);
}

void TunnelKeeper::describe(local::PeersReply& reply) const {
  if (!tunnel_) return;
  std::map<std::string, state::TunnelEnd> ends;
  if (auto known = services_.store->tunnel_ends(); known) {
    for (auto& end : *known) ends.emplace(end.peer, end);
  }
  auto status = tunnel_->peers();
  for (auto& peer : *reply.mutable_peers()) describe_one(peer, ends, status);
}

Result<std::string> TunnelKeeper::interface_to(const std::string& peer) const {
  if (tunnel_) return tunnel_->interface_to(peer);
  return std::unexpected(Error(Errc::kUnavailable, "this node has no tunnel: " + why_none_));
}

std::vector<std::string> TunnelKeeper::interfaces() const {
  return tunnel_ ? tunnel_->interfaces() : std::vector<std::string>();
}

void TunnelKeeper::check(wire::Session& session, local::PeerCheckReply& reply, const Cancel& cancel) {
  auto& peer = *reply.mutable_peer();
  if (!tunnel_) return peer.set_tunnel_problem("this node has no tunnel: " + why_none_);
  local::PeersReply one;
  *one.add_peers() = peer;
  describe(one);
  if (one.peers(0).tunnel_address().empty()) {
    note(peer.name(), exchange(session, peer.name(), cancel));
    describe(one);
  }
  auto rtt = tunnel_->ping_peer(peer.name(), Deadline::in(kPingLimit), cancel);
  describe(one);  // the ping may have made a handshake
  peer = one.peers(0);
  if (rtt)
    reply.set_tunnel_rtt_ms(static_cast<double>(rtt->count()) / 1000);
  else if (peer.tunnel_problem().empty())
    peer.set_tunnel_problem(fmt::format("{}: are UDP ports from {} on open between the hosts?", rtt.error().message(),
                                        tunnel_->options().port));
}

}  // namespace transship::node
