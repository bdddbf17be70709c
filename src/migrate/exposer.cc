#include "migrate/exposer.h"

#include <algorithm>
#include <array>

#include "base/log.h"
#include "base/text.h"
#include "base/thread.h"
#include "base/wall_clock.h"
#include "migrate/exposed_addresses.h"
#include "migrate/survey.h"
#include "wire/session.h"

namespace transship::migrate {
namespace {

constexpr milliseconds kCallLimit{5'000};
// Room for an entry that is asked meanwhile by the home that we ask.
constexpr milliseconds kAskHomeLimit{15'000};
constexpr milliseconds kStateLimit{1'500};
constexpr int kMaxAddresses = 16;

std::string bare_name(const std::string& container) { return container.substr(container.find(':') + 1); }

Result<> check_port(uint32_t port, std::string_view what) {
  if (port >= 1 && port <= 65535) return {};
  return fail(Errc::kInvalidArgument, "{} {}: ports are numbers from 1 to 65535", what, port);
}

Result<> check_protocol(const std::string& protocol) {
  if (protocol == "tcp" || protocol == "udp" || protocol == "http") return {};
  return fail(Errc::kInvalidArgument, "\"{}\" can't be exposed: tcp, udp or http", protocol.substr(0, 16));
}

bool is_away(const PlacedContainer& c) { return c.role == PlacedRole::kAway && !c.staged && !c.back; }

}  // namespace

// ---- names

Result<std::string> Exposer::fingerprint_of(const std::string& node) const {
  if (node == services_.settings.node) return services_.identity.fingerprint().text();
  auto peer = services_.store->peer(node);
  if (peer) return peer->fingerprint;
  return std::unexpected(std::move(peer).error().with_remedy(
      fmt::format("an entry is this node, {}, or one of its peers: transship peer ls", services_.settings.node)));
}

std::string Exposer::node_with(const std::string& fingerprint) const {
  if (fingerprint == services_.identity.fingerprint().text()) return services_.settings.node;
  auto peers = services_.store->peers();
  if (!peers) return {};
  auto found = std::ranges::find(*peers, fingerprint, &state::Peer::fingerprint);
  return found == peers->end() ? std::string() : found->name;
}

std::string Exposer::place_of(const Exposure& e) const {
  if (!exposures_.is_home(e) || e.addresses.empty()) return {};
  auto c = placements_.with_address(e.addresses.front().address);
  return c && is_away(*c) ? c->peer : services_.settings.node;
}

Result<> Exposer::check_way(const std::string& peer) const {
  TS_TRY_ASSIGN(auto tunnel, paths_.interface_to(peer));
  TS_TRY(network::tunnel_number_of(tunnel));
  return {};
}

// ---- the operator

Result<> Exposer::check_order(const ExposeOrder& order) const {
  TS_TRY(check_protocol(order.protocol));
  TS_TRY(check_port(order.container_port, "the container's port"));
  if (order.port != 0) TS_TRY(check_port(order.port, "the entry's port"));
  if (order.health.empty()) return {};
  if (order.protocol != "http")
    return fail(Errc::kInvalidArgument, "health checks are for http, not for {}", order.protocol);
  return gateway::check_health_path(order.health);
}

Result<Exposure> Exposer::expose(const ExposeOrder& order) {
  TS_TRY(check_order(order));
  TS_TRY_ASSIGN(auto entry, fingerprint_of(order.node));
  for (const auto& c : placements_.all())
    if (c.role == PlacedRole::kGuest && c.runs && c.leaving.empty() && c.name == bare_name(order.container))
      return ask_home(c, order, entry);
  TS_TRY_ASSIGN(auto e, at_home(order, entry));
  TS_TRY(begin(e));
  TS_LOG_INFO("expose: {}:{}/{} leads to {} port {}", order.node, e.port, e.protocol, e.name, e.container_port);
  return e;
}

Result<Exposure> Exposer::at_home(const ExposeOrder& order, const std::string& entry) const {
  Exposure e{.entry = entry,
             .home = services_.identity.fingerprint().text(),
             .protocol = order.protocol,
             .port = static_cast<uint16_t>(order.port == 0 ? order.container_port : order.port),
             .name = bare_name(order.container),
             .container_port = static_cast<uint16_t>(order.container_port),
             .health = order.health};
  for (const auto& c : placements_.all()) {
    if (!is_away(c) || c.name != e.name) continue;
    e.addresses = exposed_addresses(c.addresses, c.bridge);
    return e;
  }
  TS_TRY_ASSIGN(auto found, find_container(services_, order.container));
  e.name = found.container.name;
  e.engine = found.container.engine;
  TS_TRY_ASSIGN(e.addresses, exposed_addresses(found.container));
  if (e.addresses.empty())
    return std::unexpected(
        Error(Errc::kRefused, fmt::format("{} has no address of its own at the moment", e.name))
            .with_remedy("a container is exposed by its address: it must run, and not in the host's network"));
  return e;
}

Result<Exposure> Exposer::ask_home(const PlacedContainer& guest, const ExposeOrder& order, const std::string& entry) {
  auto port = order.port == 0 ? order.container_port : order.port;
  peer::Request request;
  auto& expose = *request.mutable_expose();
  expose.set_home_id(guest.home_id);
  expose.set_container_port(order.container_port);
  expose.set_protocol(order.protocol);
  expose.set_entry(entry);
  expose.set_port(port);
  expose.set_health(order.health);
  bool no_answer = false;
  auto done = call(guest.peer, request, kAskHomeLimit, no_answer);
  if (!done)
    return std::unexpected(
        std::move(done).error().context(fmt::format("{}, where {} is at home", guest.peer, guest.name)));
  return Exposure{.entry = entry,
                  .home = guest.home,
                  .protocol = order.protocol,
                  .port = static_cast<uint16_t>(port),
                  .name = guest.name,
                  .addresses = exposed_addresses(guest.addresses, guest.bridge),
                  .container_port = static_cast<uint16_t>(order.container_port),
                  .entry_knows = true,
                  .health = order.health};
}

Result<bool> Exposer::end(const EndOrder& order) {
  TS_TRY(check_protocol(order.protocol));
  TS_TRY(check_port(order.port, "the entry's port"));
  TS_TRY_ASSIGN(auto entry, fingerprint_of(order.node));
  std::vector<Exposure> all;
  for (const auto& e : exposures_.all())
    if (e.entry == entry && e.protocol == order.protocol && e.port == order.port &&
        (order.container.empty() || e.name == bare_name(order.container)))
      all.push_back(e);
  if (all.empty())
    return std::unexpected(
        Error(Errc::kNotFound,
              fmt::format("{}:{}/{} leads to {} that {} knows of", order.node, order.port, order.protocol,
                          order.container.empty() ? "no container" : "no container " + order.container,
                          services_.settings.node))
            .with_remedy("transship expose ls, on the container's home or on the entry, lists them"));
  // Of several, what can be ended is.
  bool draining = false;
  Result<> outcome;
  for (const auto& e : all) {
    auto ended = end_one(e);
    if (ended)
      draining = draining || *ended;
    else
      outcome = std::unexpected(std::move(ended).error());
  }
  TS_TRY(outcome);
  return draining;
}

Result<bool> Exposer::end_one(const Exposure& e) {
  if (exposures_.is_home(e)) return end_here(e);
  auto home = node_with(e.home);
  peer::Request request;
  auto& expose = *request.mutable_expose();
  expose.set_protocol(e.protocol);
  expose.set_entry(e.entry);
  expose.set_port(e.port);
  expose.set_remove(true);
  if (e.is_http()) expose.set_name(e.name);
  bool no_answer = false;
  auto done = call(home, request, kAskHomeLimit, no_answer);
  if (!done)
    return std::unexpected(std::move(done).error().context(fmt::format("{}, where {} is at home", home, e.name)));
  auto now = exposures_.find(e.key());
  if (now && now->ending) return true;
  if (now) TS_TRY(forget(*now));
  return false;
}

// ---- as the home

Result<> Exposer::begin(Exposure& e) {
  bool own = exposures_.is_entry(e);
  auto entry = node_with(e.entry);
  if (own && e.is_http()) TS_TRY(check_http(e));
  if (!own) TS_TRY(check_way(entry));
  e.entry_knows = own;
  // One that is still draining stays.
  auto known = exposures_.find(e.key());
  bool again = known && known->ending && e.is_http();
  if (again) e.inner_port = known->inner_port;
  if (auto added = again ? exposures_.put(e) : exposures_.add(e); !added)
    return std::unexpected(std::move(added).error().context(entry));
  bool may_know = false;
  auto done = placements_.apply();
  if (done && own) done = bring_up(e);
  if (done && !own) {
    if (auto told = tell_entry(e, may_know); !told) done = std::unexpected(std::move(told).error());
  }
  if (done) {
    e.entry_knows = true;
    if (auto kept = exposures_.find(e.key()); kept) e.inner_port = kept->inner_port;
    return exposures_.update(e);
  }
  e.ending = true;
  auto undone = may_know ? exposures_.put(e) : exposures_.remove(e.key());
  if (undone) undone = placements_.apply(true);
  if (!undone) TS_LOG_ERROR("expose: {}", undone.error().message());
  return done;
}

Result<> Exposer::forget(const Exposure& e) {
  TS_TRY(exposures_.remove(e.key()));
  {
    MutexLock lock(mu_);
    next_try_.erase(e.key());
  }
  return placements_.apply(true);
}

Result<bool> Exposer::end_here(Exposure e) {
  auto entry = node_with(e.entry);
  bool own = exposures_.is_entry(e);
  if (!e.ending) TS_LOG_INFO("expose: {}:{}/{} leads to {} no more", entry, e.port, e.protocol, e.name);
  if (entry.empty() || (own && (!e.is_http() || http_ == nullptr))) {
    TS_TRY(forget(e));
    return false;
  }
  if (!e.ending) e.ending_ms = unix_ms_now();
  e.ending = true;
  TS_TRY(exposures_.put(e));
  if (own) return true;  // keep_up_http() does the rest
  TS_TRY(placements_.apply(true));
  bool may_know = false;
  auto told = tell_entry(e, may_know);
  if (told && *told) return true;
  if (told) {
    TS_TRY(forget(e));
    return false;
  }
  return std::unexpected(std::move(told).error().context(
      e.is_http() ? fmt::format("{} has not heard that {} is to get no requests; nothing passes to it after {} s",
                                entry, e.name, kDrainLimit.count() / 1000)
                  : fmt::format("nothing passes to {} any more, but {} goes on taking the port until it hears of it",
                                e.name, entry)));
}

Result<peer::Reply> Exposer::call(const std::string& peer, const peer::Request& request, milliseconds limit,
                                  bool& no_answer) {
  TS_TRY_ASSIGN(auto target, services_.peer(peer));
  TS_TRY_ASSIGN(Cancel never, Cancel::create());
  auto deadline = Deadline::in(limit);
  TS_TRY_ASSIGN(auto session,
                wire::Session::connect(services_.identity, target, services_.settings.node, deadline, never));
  auto reply = session->call(request, deadline, never);
  no_answer = !reply && session->broken();
  return reply;
}

namespace {

peer::Request entry_request(const Exposure& e) {
  peer::Request request;
  auto& told = *request.mutable_entry();
  told.set_protocol(e.protocol);
  told.set_port(e.port);
  told.set_remove(e.ending);
  if (!e.ending || e.is_http()) told.set_name(e.name);
  if (e.ending) return request;
  told.set_container_port(e.container_port);
  told.set_next(e.next);
  told.set_health(e.health);
  for (const auto& a : e.addresses) told.add_addresses(exposed_address_text(a));
  return request;
}

}  // namespace

Result<bool> Exposer::tell_entry(const Exposure& e, bool& may_know) {
  auto entry = node_with(e.entry);
  auto reply = call(entry, entry_request(e), kCallLimit, may_know);
  if (reply) return reply->done().draining();
  return std::unexpected(std::move(reply).error().context(fmt::format("tell {} of its port {}", entry, e.port)));
}

// Told once more what it knows, it says how that is.
std::string Exposer::ask_state(const Exposure& e) {
  bool no_answer = false;
  auto reply = call(node_with(e.entry), entry_request(e), kStateLimit, no_answer);
  if (auto now = exposures_.find(e.key()); !now || now->ending) {
    // It was ended meanwhile, and the entry may have heard that first.
    auto ended = e;
    ended.ending = true;
    if (auto told = tell_entry(ended, no_answer); !told) TS_LOG_WARN("expose: {}", told.error().message());
    return "ending";
  }
  if (!reply) return state_of(e);
  const auto& said = reply->done().state();
  bool known = std::ranges::contains(std::array{"up", "down", "paused", "draining"}, said);
  return known ? said : state_of(e);
}

std::vector<std::pair<Exposure, std::string>> Exposer::list() {
  std::vector<std::pair<Exposure, std::string>> all;
  for (auto& e : exposures_.all()) all.emplace_back(e, state_of(e));
  std::vector<Thread> askers;
  for (auto& [e, state] : all)
    if (e.is_http() && !exposures_.is_entry(e) && e.entry_knows && !e.ending)
      askers.emplace_back("entry-state", [this, &e, &state] { state = ask_state(e); });
  askers.clear();  // waits for them
  return all;
}

Result<> Exposer::asked(const std::string& peer, const peer::ExposeRequest& request) {
  auto refuse = [&](std::string_view why) -> Result<> {
    TS_LOG_WARN("expose: refused: {} asks for port {}, {}", peer, request.port(), why);
    return fail(Errc::kRefused, "{} cannot ask for that: {}", peer, why);
  };
  TS_TRY(check_protocol(request.protocol()));
  TS_TRY(check_port(request.port(), "the entry's port"));
  TS_TRY_ASSIGN(auto asker, services_.store->peer(peer));
  Exposure e{.entry = request.entry(),
             .home = services_.identity.fingerprint().text(),
             .protocol = request.protocol(),
             .port = static_cast<uint16_t>(request.port()),
             .name = request.name()};
  if (request.remove()) {
    auto known = exposures_.find(e.key());
    if (!known || !exposures_.is_home(*known)) return {};  // it has ended here, and the entry may not have heard
    if (known->entry != asker.fingerprint) return refuse("it is not the entry");
    TS_TRY(end_here(*known));
    return {};
  }
  if (!request.health().empty()) TS_TRY(gateway::check_health_path(request.health()));
  TS_TRY(check_port(request.container_port(), "the container's port"));
  auto c = placements_.find(e.home + "/" + request.home_id());
  if (!c || !is_away(*c) || c->peer != peer) return refuse("it does not have that container");
  if (node_with(e.entry).empty())
    return fail(Errc::kNotFound, "{} has no peer with the key {}", services_.settings.node, e.entry);
  e.name = c->name;
  e.container_port = static_cast<uint16_t>(request.container_port());
  e.addresses = exposed_addresses(c->addresses, c->bridge);
  e.health = request.health();
  return begin(e);
}

// ---- as the entry

Result<bool> Exposer::told(const std::string& peer, const peer::EntryRequest& request) {
  TS_TRY(check_protocol(request.protocol()));
  TS_TRY(check_port(request.port(), "the entry's port"));
  TS_TRY_ASSIGN(auto home, services_.store->peer(peer));
  Exposure e{.entry = services_.identity.fingerprint().text(),
             .home = home.fingerprint,
             .protocol = request.protocol(),
             .port = static_cast<uint16_t>(request.port()),
             .name = request.name(),
             .entry_knows = true,
             .next = request.next(),
             .health = request.health()};
  auto known = exposures_.find(e.key());
  bool others = known && known->home != e.home;
  if (request.remove()) {
    if (!known || others) return false;
    if (http_ != nullptr && known->is_http()) return drain(*known);
    TS_TRY(forget(*known));
    return false;
  }
  TS_TRY(check_port(request.container_port(), "the container's port"));
  e.container_port = static_cast<uint16_t>(request.container_port());
  if (!is_plain_name(e.name) || request.addresses().empty() || request.addresses_size() > kMaxAddresses)
    return fail(Errc::kPeerProtocol, "{} asks for port {} for a container without a name or address", peer, e.port);
  for (const auto& text : request.addresses()) {
    TS_TRY_ASSIGN(auto a, parse_exposed_address(text));
    e.addresses.push_back(a);
  }
  if (known) e.inner_port = known->inner_port;
  if (known == e) return false;
  if (others && !e.next.empty() && known->home == e.next) return false;  // that has told it itself
  bool handed_over = others && known->next == e.home && known->container_port == e.container_port;
  if ((others && !handed_over) || (known && known->name != e.name))
    return fail(Errc::kAlreadyExists, "port {}/{} of {} leads to {} already", e.port, e.protocol,
                services_.settings.node, known->name);
  TS_TRY(check_way(peer));
  if (known && (handed_over || known->addresses != e.addresses)) exposures_.keep_late(*known);
  TS_TRY(take_in(peer, e, known));
  return false;
}

Result<> Exposer::take_in(const std::string& peer, const Exposure& e, const std::optional<Exposure>& known) {
  if (e.is_http()) TS_TRY(check_http(e));
  TS_TRY(exposures_.put(e));
  auto done = placements_.apply();
  if (done) done = bring_up(e);
  if (done) {
    TS_LOG_INFO("expose: port {}/{} leads to {} of {}, says that", e.port, e.protocol, e.name, peer);
    return {};
  }
  if (auto undone = known ? exposures_.put(*known) : exposures_.remove(e.key()); !undone)
    TS_LOG_ERROR("expose: {}", undone.error().message());
  return done;
}

}  // namespace transship::migrate
