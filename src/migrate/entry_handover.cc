#include "migrate/entry_handover.h"

#include <algorithm>

#include "base/log.h"
#include "base/text.h"
#include "base/thread.h"
#include "migrate/exposed_addresses.h"
#include "wire/session.h"

namespace transship::migrate {
namespace {

using network::CutoverFacts;
using network::IpAddress;

// Room for entries that are told meanwhile by the home that we ask.
constexpr milliseconds kAskLimit{15'000};

std::vector<IpAddress> addresses_of(const CutoverFacts& facts) {
  std::vector<IpAddress> all;
  for (const auto& text : facts.addresses)
    if (auto a = IpAddress::parse(text); a) all.push_back(*a);
  return all;
}

peer::ExposedPort to_port(const Exposure& e) {
  peer::ExposedPort port;
  port.set_entry(e.entry);
  port.set_protocol(e.protocol);
  port.set_port(e.port);
  port.set_container_port(e.container_port);
  port.set_health(e.health);
  return port;
}

}  // namespace

bool EntryHandover::home_is_here(const CutoverFacts& facts) const {
  return facts.home == services_.identity.fingerprint().text();
}

std::vector<Exposure> EntryHandover::at_home(const std::string& name, const std::vector<IpAddress>& addresses) const {
  std::vector<Exposure> all;
  for (auto& e : exposures_.all()) {
    bool its = e.name == name && std::ranges::any_of(e.addresses, [&](const auto& a) {
                 return std::ranges::contains(addresses, a.address);
               });
    if (its && exposures_.is_home(e) && !e.ending && !e.given) all.push_back(std::move(e));
  }
  return all;
}

std::string EntryHandover::text_of(const peer::ExposedPort& port) const {
  auto node = exposer_.node_with(port.entry());
  return fmt::format("{}:{}/{}", node.empty() ? port.entry().substr(0, 16) : node, port.port(), port.protocol());
}

// ---- where the container is

Result<peer::HandoverReply> EntryHandover::ask_home(const CutoverFacts& facts, const peer::HandoverRequest& request) {
  auto home = exposer_.node_with(facts.home);
  if (home.empty())
    return std::unexpected(Error(Errc::kNotFound, fmt::format("{} has no peer with the key {}, where {} is at home",
                                                              services_.settings.node, facts.home, facts.container))
                               .with_remedy("transship peer add"));
  TS_TRY_ASSIGN(auto target, services_.peer(home));
  TS_TRY_ASSIGN(Cancel never, Cancel::create());
  auto deadline = Deadline::in(kAskLimit);
  peer::Request message;
  *message.mutable_handover() = request;
  message.mutable_handover()->set_home_id(facts.home_id);
  auto ask = [&]() -> Result<peer::HandoverReply> {
    TS_TRY_ASSIGN(auto session,
                  wire::Session::connect(services_.identity, target, services_.settings.node, deadline, never));
    TS_TRY_ASSIGN(auto reply, session->call(message, deadline, never));
    return std::move(*reply.mutable_handover());
  };
  auto reply = ask();
  if (!reply)
    return std::unexpected(std::move(reply).error().context(
        fmt::format("ask {}, where {} is at home, for its entries", home, facts.container)));
  return reply;
}

Result<std::vector<peer::ExposedPort>> EntryHandover::ports_of(const CutoverFacts& facts) {
  std::vector<peer::ExposedPort> ports;
  if (home_is_here(facts)) {
    for (const auto& e : at_home(facts.container, addresses_of(facts))) ports.push_back(to_port(e));
    return ports;
  }
  TS_TRY_ASSIGN(auto reply, ask_home(facts, {}));
  ports.assign(reply.exposed().begin(), reply.exposed().end());
  return ports;
}

// Sets who may be the next home, here and on the entries.
std::vector<std::string> EntryHandover::name_next(std::vector<Exposure> exposures, const std::string& next) {
  std::vector<std::string> not_told;
  for (auto& e : exposures) {
    // An http entry has any number of containers, of several homes: the next home adds one, and this one takes its out.
    if (e.next == next || e.is_http()) continue;
    e.next = next;
    bool may_know = false;
    auto told = exposures_.is_entry(e) ? Result<bool>(false) : exposer_.tell_entry(e, may_know);
    e.entry_knows = told.has_value();
    if (!told) not_told.push_back(told.error().message());
    if (auto kept = exposures_.update(e); !kept) TS_LOG_ERROR("expose: {}", kept.error().message());
  }
  return not_told;
}

Result<std::vector<std::string>> EntryHandover::offer(const CutoverFacts& facts, const std::string& destination) {
  TS_TRY_ASSIGN(auto next, services_.store->peer(destination));
  if (home_is_here(facts)) return name_next(at_home(facts.container, addresses_of(facts)), next.fingerprint);
  peer::HandoverRequest request;
  request.set_offer(true);
  request.set_next(next.fingerprint);
  TS_TRY_ASSIGN(auto reply, ask_home(facts, request));
  return std::vector<std::string>(reply.not_told().begin(), reply.not_told().end());
}

void EntryHandover::withdraw(const CutoverFacts& facts) {
  if (home_is_here(facts)) {
    (void)name_next(at_home(facts.container, addresses_of(facts)), "");
    return;
  }
  peer::HandoverRequest request;
  request.set_offer(true);
  if (auto told = ask_home(facts, request); !told) TS_LOG_WARN("expose: {}", told.error().message());
}

void EntryHandover::settle(const CutoverFacts& facts) {
  if (!home_is_here(facts)) return;
  for (const auto& e : at_home(facts.container, addresses_of(facts))) {
    if (e.next.empty() && !e.is_http()) continue;
    if (auto given = exposer_.give(e); !given) TS_LOG_ERROR("expose: {}", given.error().message());
  }
}

// ---- home

Result<peer::HandoverReply> EntryHandover::asked(const std::string& peer, const peer::HandoverRequest& request) {
  auto c = placements_.find(services_.identity.fingerprint().text() + "/" + request.home_id());
  if (!c || c->role != PlacedRole::kAway || c->staged || c->back || c->peer != peer) {
    TS_LOG_WARN("expose: refused: {} asks for the entries of {}, which it does not have", peer, request.home_id());
    return fail(Errc::kRefused, "{} does not have that container", peer);
  }
  if (request.offer() && !request.next().empty() && exposer_.node_with(request.next()).empty())
    return fail(Errc::kNotFound, "{} has no peer with the key {}", services_.settings.node, request.next());
  auto exposures = at_home(c->name, c->addresses);
  peer::HandoverReply reply;
  for (const auto& e : exposures) *reply.add_exposed() = to_port(e);
  if (request.offer())
    for (auto& sentence : name_next(std::move(exposures), request.next())) reply.add_not_told(std::move(sentence));
  return reply;
}

// ---- where it has come to

std::vector<std::string> EntryHandover::objections(const std::vector<peer::ExposedPort>& ports) const {
  std::vector<std::string> all;
  auto own = services_.identity.fingerprint().text();
  for (const auto& port : ports) {
    auto entry = exposer_.node_with(port.entry());
    if (port.entry() == own) continue;
    auto way = entry.empty() ? fail(Errc::kNotFound, "{} has no peer with the key {}", services_.settings.node,
                                    port.entry().substr(0, 64))
                             : exposer_.check_way(entry);
    if (!way) all.push_back(fmt::format("port {}: {}", port.port(), way.error().message()));
  }
  return all;
}

Result<Exposure> EntryHandover::claimed(const engine::Container& wanted,
                                        const std::vector<network::ExposedAddress>& addresses,
                                        const peer::ExposedPort& port) {
  Exposure e{.entry = port.entry(),
             .home = services_.identity.fingerprint().text(),
             .protocol = port.protocol(),
             .port = static_cast<uint16_t>(port.port()),
             .name = wanted.name,
             .engine = wanted.engine,
             .addresses = addresses,
             .container_port = static_cast<uint16_t>(port.container_port()),
             .health = port.health()};
  if (!e.health.empty()) TS_TRY(gateway::check_health_path(e.health));
  e.entry_knows = exposures_.is_entry(e);
  auto known = exposures_.find(e.key());
  bool ours = known && known->name == e.name && (known->home == e.home || known->next == e.home);
  if (known && !ours)
    return fail(Errc::kAlreadyExists, "port {}/{} of {} leads to {} already", e.port, e.protocol,
                exposer_.node_with(e.entry), known->name);
  if (known && (known->home != e.home || known->addresses != e.addresses)) exposures_.keep_late(*known);
  TS_TRY(exposures_.put(e));
  return e;
}

void EntryHandover::tell_claimed(Exposure e) {
  bool may_know = false;
  auto told = exposer_.tell_entry(e, may_know);
  if (!told) {
    TS_LOG_WARN("expose: {}", told.error().message());
    return;
  }
  e.entry_knows = true;
  if (auto kept = exposures_.update(e); !kept) TS_LOG_ERROR("expose: {}", kept.error().message());
}

void EntryHandover::claim(const engine::Container& wanted, const std::vector<engine::Address>& addresses,
                          const std::vector<peer::ExposedPort>& ports) {
  std::vector<network::ExposedAddress> at;
  for (const auto& a : addresses)
    if (auto address = IpAddress::parse(a.ip); address) at.push_back({*address, a.prefix});
  if (at.empty() || ports.empty()) return;
  std::vector<Exposure> mine;
  for (const auto& port : ports) {
    auto e = claimed(wanted, at, port);
    if (e)
      mine.push_back(std::move(*e));
    else
      TS_LOG_WARN("expose: {}", e.error().message());
  }
  // This node's own part is there before anybody sends it anything.
  if (auto r = placements_.apply(); !r) TS_LOG_ERROR("expose: {}", r.error().message());
  std::vector<Thread> telling;
  for (const auto& e : mine)
    if (!exposures_.is_entry(e)) telling.emplace_back("entry", [this, e] { tell_claimed(e); });
  for (auto& thread : telling) thread.join();
}

}  // namespace transship::migrate
