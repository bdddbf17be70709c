#include "migrate/tunnel_cutover.h"

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>

#include <algorithm>
#include <array>

#include "base/log.h"
#include "base/text.h"
#include "base/thread.h"
#include "network/netlink.h"
#include "network/tracking.h"

namespace transship::migrate {
namespace {

using network::CutoverFacts;
using network::IpAddress;

constexpr milliseconds kTellLimit{5'000};
constexpr milliseconds kSlack{1'000};

std::string key_of(const CutoverFacts& f) { return f.home + "/" + f.home_id; }

Result<std::vector<IpAddress>> addresses_of(const CutoverFacts& facts) {
  std::vector<IpAddress> all;
  for (const auto& text : facts.addresses) {
    TS_TRY_ASSIGN(auto a, IpAddress::parse(text));
    all.push_back(a);
  }
  return all;
}

// The bridge that packets for it leave by now.
Result<std::string> interface_of(const IpAddress& address) {
  TS_TRY_ASSIGN(auto netlink, network::Netlink::open());
  TS_TRY_ASSIGN(auto route, netlink.route_to(address));
  std::array<char, IF_NAMESIZE> name = {};
  if (::if_indextoname(route.interface, name.data()) == nullptr)
    return fail_errno(errno, "find the interface to {}", address.text());
  return std::string(name.data());
}

Result<> in_network_namespace(const std::string& path, const std::function<Result<>()>& work) {
  TS_TRY_ASSIGN(Fd fd, open_file(path, O_RDONLY));
  Result<> done;
  Thread("in-netns", [&] {
    done = ::setns(fd.get(), CLONE_NEWNET) == 0 ? work() : fail_errno(errno, "enter {}", path);
  }).join();
  return done;
}

}  // namespace

bool TunnelCutover::at_home(const CutoverFacts& facts) const {
  return facts.home == services_.identity.fingerprint().text();
}

Result<std::string> TunnelCutover::peer_with(const std::string& fingerprint) const {
  TS_TRY_ASSIGN(auto peers, services_.store->peers());
  auto found = std::ranges::find(peers, fingerprint, &state::Peer::fingerprint);
  if (found != peers.end()) return found->name;
  return std::unexpected(
      Error(Errc::kNotFound, fmt::format("{} has no peer with the key {}", services_.settings.node, fingerprint))
          .with_remedy("add the node where the container's address is at home: transship peer add"));
}

void TunnelCutover::apply(std::string_view what) {
  auto r = placements_.apply();
  // An engine that takes a bridge away meanwhile takes routes with it that were just to be removed.
  if (!r) r = placements_.apply();
  if (!r) TS_LOG_ERROR("network: {}: {} {}", what, r.error().message(), r.error().remedy());
}

// Its connections are not this host's any more.
void TunnelCutover::forget(const PlacedContainer& c, std::string_view what) {
  if (auto r = placements_.remove(c.key()); !r) TS_LOG_ERROR("network: {}", r.error().message());
  apply(what);
  if (auto n = network::forget_connections(c.addresses); !n) TS_LOG_WARN("network: {}: {}", what, n.error().message());
}

// ---- source

void TunnelCutover::identify(CutoverFacts& facts) const {
  facts.home = services_.identity.fingerprint().text();
  auto addresses = addresses_of(facts);
  if (!addresses || addresses->empty()) return;
  auto guest = placements_.with_address(addresses->front());
  if (!guest || guest->role != PlacedRole::kGuest) return;
  facts.home = guest->home;
  facts.home_id = guest->home_id;
}

Result<> TunnelCutover::prepare_leave(const CutoverFacts& facts) {
  TS_TRY_ASSIGN(auto addresses, addresses_of(facts));
  if (addresses.empty() || facts.new_address) return {};
  TS_TRY(paths_.interface_to(facts.destination));
  if (!at_home(facts)) {
    auto guest = placements_.find(key_of(facts));
    if (!guest) return fail(Errc::kInternal, "{} is a guest here, and nothing is known of it", facts.container);
    TS_TRY_ASSIGN(auto destination, services_.store->peer(facts.destination));
    if (destination.fingerprint == facts.home) return {};  // that knows by itself
    guest->next = destination.fingerprint;
    placements_.remember(*guest);
    return tell_home(*guest, guest->next);
  }
  // It may be home only since a moment; its id there is another one each time.
  for (const auto& a : addresses)
    if (auto before = placements_.with_address(a); before && before->back) TS_TRY(placements_.remove(before->key()));
  TS_TRY_ASSIGN(auto c, away(facts));
  c.staged = true;
  TS_TRY(placements_.put(c));
  return placements_.apply();
}

Result<PlacedContainer> TunnelCutover::away(const CutoverFacts& facts) const {
  PlacedContainer c{.role = PlacedRole::kAway,
                    .home = facts.home,
                    .home_id = facts.home_id,
                    .name = facts.container,
                    .addresses = {},
                    .bridge = {},
                    .peer = facts.destination,
                    .ports = facts.ports};
  TS_TRY_ASSIGN(c.addresses, addresses_of(facts));
  TS_TRY_ASSIGN(c.bridge, interface_of(c.addresses.front()));
  return c;
}

// Only what clients wait for: settled() makes it last.
Result<std::optional<std::string>> TunnelCutover::left(const CutoverFacts& facts) {
  if (facts.addresses.empty() || facts.new_address) return std::nullopt;
  TS_TRY_ASSIGN(auto tunnel, paths_.interface_to(facts.destination));
  auto c = placements_.find(key_of(facts));
  if (!at_home(facts)) {
    // Late packets go on from here; it may be back before that ends.
    if (c) c->leaving = facts.move_id;
    if (c) placements_.remember(*c);
    return tunnel;
  }
  if (!c) {
    // A daemon that was killed in between had staged it.
    TS_TRY_ASSIGN(c, away(facts));
  }
  c->staged = false;
  placements_.remember(*c);
  TS_TRY(network::lead_away(c->addresses, tunnel, c->bridge));
  return tunnel;
}

// Nothing leads to its addresses any more, and nobody waits for what this host remembers of them.
void TunnelCutover::end_addresses(const CutoverFacts& facts) {
  auto addresses = addresses_of(facts);
  auto what = fmt::format("{} has another address", facts.container);
  if (auto guest = placements_.find(key_of(facts)); guest && guest->role == PlacedRole::kGuest) {
    // To its home it is as one that was removed here. What that cannot hear now it hears later: tell_homes().
    if (auto told = tell_removal(*guest); !told) TS_LOG_WARN("network: {}", told.error().message());
    return;
  }
  if (!addresses) return;
  if (auto n = network::forget_connections(*addresses); !n) TS_LOG_WARN("network: {}: {}", what, n.error().message());
}

void TunnelCutover::settled(const CutoverFacts& facts) {
  if (facts.new_address) return end_addresses(facts);
  if (auto c = placements_.find(key_of(facts)); c && !c->staged) {
    if (auto r = placements_.put(*c); !r) TS_LOG_ERROR("network: {}", r.error().message());
  }
  if (at_home(facts)) apply(fmt::format("{} has left", facts.container));
}

void TunnelCutover::gone(const CutoverFacts& facts) {
  if (facts.new_address) return;
  auto guest = placements_.find(key_of(facts));
  if (!guest || guest->leaving != facts.move_id) return;
  forget(*guest, fmt::format("{} has left", facts.container));
}

void TunnelCutover::stay(const CutoverFacts& facts) {
  if (facts.new_address) return;
  auto c = placements_.find(key_of(facts));
  if (!c) return;
  if (c->role == PlacedRole::kGuest && !c->next.empty()) {
    c->next.clear();
    placements_.remember(*c);
    if (auto r = tell_home(*c, ""); !r) TS_LOG_WARN("network: {}", r.error().message());
  }
  if (!c->staged) return;
  if (auto r = placements_.remove(c->key()); !r) TS_LOG_ERROR("network: {}", r.error().message());
  apply(fmt::format("{} stays", facts.container));
}

// ---- destination

// Hosts often have the same networks, so another container may have its address. Of one that is away from here the
// engine knows nothing any more.
Result<> TunnelCutover::check_free(const CutoverFacts& facts) const {
  TS_TRY_ASSIGN(auto addresses, addresses_of(facts));
  for (const auto& a : addresses) {
    auto other = placements_.with_address(a);
    // One that has left, and for which only late packets are passed on, is not in the way.
    if (!other || other->back || !other->leaving.empty() || other->key() == key_of(facts)) continue;
    bool away = other->role == PlacedRole::kAway;
    return std::unexpected(
        Error(Errc::kRefused, away ? fmt::format("{} is at home on {} as {}'s, which is on {} now", a.text(),
                                                 services_.settings.node, other->name, other->peer)
                                   : fmt::format("{} has {} on {}, as a guest from {}", other->name, a.text(),
                                                 services_.settings.node, other->peer))
            .with_remedy(fmt::format("make one of the two anew with another address, or remove {}", other->name)));
  }
  return {};
}

Result<std::string> TunnelCutover::judge_arrival(const CutoverFacts& facts) {
  if (facts.addresses.empty() || facts.new_address) return std::string();
  TS_TRY(check_free(facts));
  TS_TRY(paths_.interface_to(facts.source));
  auto addresses = join(facts.addresses, " and ");
  if (!at_home(facts)) {
    TS_TRY_ASSIGN(auto home, peer_with(facts.home));
    TS_TRY_ASSIGN(auto tunnel, paths_.interface_to(home));
    return fmt::format("{} stay at home on {}, by the tunnel {}", addresses, home, tunnel);
  }
  auto away = placements_.find(key_of(facts));
  if (away && away->peer == facts.source && !away->back && !away->staged)
    return fmt::format("{} are at home here", addresses);
  TS_LOG_WARN("network: {} offers {} as one that is at home here, and does not have it", facts.source, facts.container);
  return std::unexpected(
      Error(Errc::kRefused, fmt::format("{} is said to be at home on {}, which has not given it to {}", facts.container,
                                        services_.settings.node, facts.source))
          .with_remedy("look at where it is: transship network check, on both nodes"));
}

Result<> TunnelCutover::prepare_arrival(const CutoverFacts& facts, const std::string& netns) {
  if (facts.addresses.empty()) return {};
  if (at_home(facts)) {
    auto away = placements_.find(key_of(facts));
    if (!away) return {};
    away->coming = true;
    placements_.remember(*away);
    return placements_.apply();
  }
  TS_TRY_ASSIGN(auto addresses, addresses_of(facts));
  TS_TRY_ASSIGN(auto home, peer_with(facts.home));
  TS_TRY_ASSIGN(auto bridge, interface_of(addresses.front()));
  // It was here a moment ago, and was home since, where it got another id: what comes late for it stays here now.
  for (const auto& a : addresses)
    if (auto before = placements_.with_address(a); before && !before->leaving.empty())
      TS_TRY(placements_.remove(before->key()));
  TS_TRY(placements_.put({.role = PlacedRole::kGuest,
                          .home = facts.home,
                          .home_id = facts.home_id,
                          .name = facts.container,
                          .addresses = std::move(addresses),
                          .bridge = std::move(bridge),
                          .peer = home,
                          .late_from = facts.source,
                          .engine = facts.engine,
                          .engine_id = facts.engine_id}));
  TS_TRY(placements_.apply());
  return netns.empty() ? Result<>() : in_network_namespace(netns, network::set_gateway_routes);
}

void TunnelCutover::undo_arrival(const CutoverFacts& facts) {
  auto guest = placements_.find(key_of(facts));
  if (guest && at_home(facts)) {
    guest->coming = false;
    placements_.remember(*guest);
    return apply(fmt::format("{} does not come", facts.container));
  }
  if (!guest || guest->role != PlacedRole::kGuest) return;
  forget(*guest, fmt::format("{} does not come", facts.container));
}

Result<> TunnelCutover::commit(const CutoverFacts& facts) {
  if (!at_home(facts) || facts.new_address) return {};
  auto away = placements_.find(key_of(facts));
  if (!away) return {};
  // Known before it is done: see Placements::apply().
  away->coming = true;
  away->back = Clock::now();
  placements_.remember(*away);
  auto led = network::lead_home(away->addresses, away->bridge);
  TS_TRY(placements_.remove(away->key()));
  placements_.remember(*away);
  return led;
}

void TunnelCutover::arrived(const CutoverFacts& facts) {
  if (at_home(facts)) return apply(fmt::format("{} is home", facts.container));
  auto guest = placements_.find(key_of(facts));
  if (!guest) return;
  guest->runs = true;
  if (auto r = placements_.put(*guest); !r) TS_LOG_ERROR("network: {}", r.error().message());
  tell_homes();
}

// ---- homes

Result<> TunnelCutover::tell_home(const PlacedContainer& guest, const std::string& next_fingerprint) {
  TS_TRY_ASSIGN(auto target, services_.peer(guest.peer));
  TS_TRY_ASSIGN(Cancel never, Cancel::create());
  auto deadline = Deadline::in(kTellLimit);
  TS_TRY_ASSIGN(auto session,
                wire::Session::connect(services_.identity, target, services_.settings.node, deadline, never));
  peer::Request request;
  auto& placed = *request.mutable_placed();
  placed.set_home_id(guest.home_id);
  placed.set_next(next_fingerprint);
  placed.set_gone(guest.gone);
  auto reply = session->call(request, deadline, never);
  if (reply) return {};
  return std::unexpected(std::move(reply).error().context(
      fmt::format("tell {}, where {} is at home, where it is going", guest.peer, guest.name)));
}

// Its home gave it away itself when it came from there.
Result<> TunnelCutover::tell_arrival(PlacedContainer guest) {
  if (guest.late_from != guest.peer) TS_TRY(tell_home(guest, ""));
  guest.home_knows = true;
  return placements_.put(guest);
}

// Removed, by somebody who may not know that its address is at home elsewhere.
Result<> TunnelCutover::tell_removal(PlacedContainer guest) {
  if (!guest.gone) {
    TS_LOG_INFO("network: {} is no more: {} hears of it", guest.name, guest.peer);
    guest.gone = true;
    TS_TRY(placements_.put(guest));
  }
  TS_TRY(tell_home(guest, ""));
  forget(guest, fmt::format("{} is no more", guest.name));
  return {};
}

bool TunnelCutover::removed(const PlacedContainer& guest) const {
  if (guest.gone) return true;
  auto engine = services_.engine(guest.engine);
  if (!engine) return false;
  auto there = (*engine)->inspect(guest.engine_id);
  return !there && there.error().code() == Errc::kNotFound;
}

// Longer than late packets are passed on anywhere.
void TunnelCutover::forget_who_is_home() {
  bool changed = false;
  for (const auto& c : placements_.all()) {
    if (!c.back || Clock::now() - *c.back < services_.settings.hold_grace + kSlack) continue;
    if (auto r = placements_.remove(c.key()); !r) TS_LOG_ERROR("network: {}", r.error().message());
    changed = true;
  }
  if (changed) apply("late packets end");
}

void TunnelCutover::tell_homes() {
  for (const auto& guest : placements_.all()) {
    if (guest.role != PlacedRole::kGuest || !guest.runs || !guest.leaving.empty()) continue;
    Result<> told;
    if (!guest.home_knows) told = tell_arrival(guest);
    if (told && removed(guest)) told = tell_removal(guest);
    if (!told) TS_LOG_WARN("network: {}", told.error().message());
  }
}

Result<> TunnelCutover::told(const std::string& peer, const peer::PlacedRequest& request) {
  auto refuse = [&](std::string_view why) -> Result<> {
    TS_LOG_WARN("network: refused: {} says where {} is, {}", peer, request.home_id(), why);
    return fail(Errc::kRefused, "{} cannot say where {} is: {}", peer, request.home_id(), why);
  };
  auto c = placements_.find(services_.identity.fingerprint().text() + "/" + request.home_id());
  if (!c || c->role != PlacedRole::kAway || c->staged || c->back) {
    // Said again by one that was killed before it had forgotten it, and would say it for ever.
    if (request.gone()) return {};
    return refuse("it is no container that is away from here");
  }
  if (request.gone()) {
    if (c->peer != peer) return refuse(fmt::format("{} has it", c->peer));
    TS_LOG_INFO("network: {} is no more, says {}", c->name, peer);
    TS_TRY(network::lead_home(c->addresses, c->bridge));
    forget(*c, fmt::format("{} is no more", c->name));
    return {};
  }
  if (!request.next().empty()) {
    if (c->peer != peer) return refuse(fmt::format("{} has it", c->peer));
    TS_TRY(peer_with(request.next()));
    c->next = request.next();
    return placements_.put(*c);
  }
  if (c->peer == peer) {
    c->next.clear();  // it stays there
    return placements_.put(*c);
  }
  auto next = c->next.empty() ? Result<std::string>(std::string()) : peer_with(c->next);
  if (!next || *next != peer) return refuse(fmt::format("{} has it, and has not given it on", c->peer));
  TS_TRY_ASSIGN(auto tunnel, paths_.interface_to(peer));
  c->peer = peer;
  c->next.clear();
  TS_TRY(network::lead_away(c->addresses, tunnel, c->bridge));
  TS_TRY(placements_.put(*c));
  TS_LOG_INFO("network: {} is on {} now", c->name, peer);
  apply(fmt::format("{} is on {}", c->name, peer));
  return {};
}

}  // namespace transship::migrate
