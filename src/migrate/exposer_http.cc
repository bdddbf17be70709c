// What is special of HTTP entries: one port leads to several containers, by a HAProxy, which hears of their moves.
#include <algorithm>
#include <vector>

#include "base/log.h"
#include "base/text.h"
#include "base/thread.h"
#include "base/wall_clock.h"
#include "migrate/exposer.h"

namespace transship::migrate {
namespace {

// A home or an entry that takes longer is not told: the move is over by then.
constexpr milliseconds kPauseCallLimit{1'500};
constexpr size_t kLongestId = 128;

}  // namespace

// ---- as the entry

// Names and paths get into HAProxy's configuration.
Result<> Exposer::check_http(const Exposure& e) const {
  if (http_ == nullptr) return fail(Errc::kUnavailable, "{} has no HTTP entries", services_.settings.node);
  if (!is_plain_name(e.name))
    return std::unexpected(Error(Errc::kInvalidArgument, fmt::format("\"{}\" can't be behind an http entry", e.name))
                               .with_remedy("its name may have letters, digits, '.', '_' and '-'"));
  if (!e.health.empty()) TS_TRY(gateway::check_health_path(e.health));
  for (const auto& other : exposures_.all()) {
    if (other.entry != e.entry || !other.is_http() || other.port != e.port || other.health == e.health) continue;
    auto how = other.health.empty() ? std::string("by connecting, without --health") : "with --health " + other.health;
    return std::unexpected(
        Error(Errc::kAlreadyExists,
              fmt::format("port {}/http of {} checks its containers {}", e.port, services_.settings.node, how))
            .with_remedy("all containers behind an entry are checked alike: give the same, or end the entry first"));
  }
  return {};
}

Result<> Exposer::bring_up(const Exposure& e) {
  return e.is_http() && http_ != nullptr ? http_->open(e.port) : Result<>();
}

Result<bool> Exposer::drain(Exposure e) {
  if (!e.ending) {
    e.ending = true;
    e.ending_ms = unix_ms_now();
    TS_TRY(exposures_.put(e));
  }
  return true;
}

void Exposer::keep_up_http() {
  if (http_ == nullptr) return;
  for (const auto& key : http_->keep_up()) {
    auto e = exposures_.find(key);
    if (!e || !e->ending) continue;
    TS_LOG_INFO("expose: port {}/{} has nothing more to do with {}", e->port, e->protocol, e->name);
    if (auto r = forget(*e); !r) TS_LOG_ERROR("expose: {}", r.error().message());
  }
}

void Exposer::keep_up_draining() {
  for (const auto& e : exposures_.all())
    if (exposures_.is_home(e) && !exposures_.is_entry(e) && is_draining(e) && !node_with(e.entry).empty())
      tell_again(e);
}

std::vector<std::string> Exposer::missing_http() const {
  return http_ != nullptr ? http_->missing() : std::vector<std::string>();
}

std::string Exposer::state_of(const Exposure& e) const {
  if (http_ != nullptr && e.is_http() && exposures_.is_entry(e))
    if (auto state = http_->state_of(e.key()); !state.empty()) return state;
  return e.ending ? "ending" : e.entry_knows ? "open" : "waiting";
}

std::string Exposer::state_for(const std::string& peer, const peer::EntryRequest& request) const {
  auto home = services_.store->peer(peer);
  if (!home || request.protocol() != "http") return {};
  Exposure e{.entry = services_.identity.fingerprint().text(),
             .home = home->fingerprint,
             .protocol = request.protocol(),
             .port = static_cast<uint16_t>(request.port()),
             .name = request.name()};
  auto known = exposures_.find(e.key());
  return known ? state_of(*known) : std::string();
}

Result<> Exposer::told_pause(const std::string& peer, const peer::PauseRequest& request) {
  TS_TRY_ASSIGN(auto home, services_.store->peer(peer));
  if (http_ == nullptr) return {};
  for (const auto& e : exposures_.all())
    if (e.is_http() && exposures_.is_entry(e) && e.home == home.fingerprint && e.name == request.name())
      http_->pause(e.key(), request.paused());
  return {};
}

// ---- as the home

// All at once: one that does not answer keeps no other from hearing.
void Exposer::pause_entries(const std::string& container, bool paused) {
  peer::Request request;
  request.mutable_pause()->set_name(container);
  request.mutable_pause()->set_paused(paused);
  std::vector<std::string> entries;
  for (const auto& e : exposures_.all()) {
    if (!e.is_http() || !exposures_.is_home(e) || e.name != container) continue;
    if (exposures_.is_entry(e) && http_ != nullptr)
      http_->pause(e.key(), paused);
    else if (auto entry = node_with(e.entry); !entry.empty() && !std::ranges::contains(entries, entry))
      entries.push_back(entry);
  }
  std::vector<Thread> tellers;
  tellers.reserve(entries.size());
  for (const auto& entry : entries)
    tellers.emplace_back("pause-tell", [this, &request, entry] {
      bool no_answer = false;
      if (auto told = call(entry, request, kPauseCallLimit, no_answer); !told)
        TS_LOG_WARN("expose: tell {} that {} moves: {}", entry, request.pause().name(), told.error().message());
    });
}

Result<> Exposer::told_moving(const std::string& peer, const peer::MovingRequest& request) {
  const auto& id = request.home_id();
  if (id.empty() || id.size() > kLongestId) return fail(Errc::kPeerProtocol, "{} says that nothing moves", peer);
  std::string name;
  if (request.ended()) {
    MutexLock lock(mu_);
    auto said = moving_.find(id);
    if (said == moving_.end() || said->second.first != peer) return {};  // its home has forgotten it
    name = said->second.second;
    moving_.erase(said);
  } else {
    auto c = placements_.find(services_.identity.fingerprint().text() + "/" + id);
    if (!c || c->role != PlacedRole::kAway || c->staged || c->back || c->peer != peer) {
      TS_LOG_WARN("expose: refused: {} says that {} moves, which it does not have", peer, id);
      return fail(Errc::kRefused, "{} cannot say that {} moves: it does not have it", peer, id);
    }
    name = c->name;
    MutexLock lock(mu_);
    moving_[id] = {peer, name};
  }
  pause_entries(name, !request.ended());
  return {};
}

// ---- as the source

void Exposer::moving(const network::CutoverFacts& facts, bool ended) {
  if (facts.home.empty() || facts.home == services_.identity.fingerprint().text())
    return pause_entries(facts.container, !ended);
  auto home = node_with(facts.home);
  if (home.empty()) return;
  peer::Request request;
  request.mutable_moving()->set_home_id(facts.home_id);
  request.mutable_moving()->set_ended(ended);
  bool no_answer = false;
  // It asks the entries in its turn.
  if (auto told = call(home, request, kPauseCallLimit * 2, no_answer); !told)
    TS_LOG_WARN("expose: tell {} that {} moves: {}", home, facts.container, told.error().message());
}

}  // namespace transship::migrate
