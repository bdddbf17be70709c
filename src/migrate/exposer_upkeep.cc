// What becomes of exposed ports by itself: containers and peers that go, addresses that change, entries that have not
// heard.
#include "base/log.h"
#include "base/text.h"
#include "migrate/exposed_addresses.h"
#include "migrate/exposer.h"
#include "migrate/survey.h"

namespace transship::migrate {
namespace {

using network::ExposedAddress;

constexpr milliseconds kRetryEvery{30'000};

}  // namespace

// As they are here or where it is; kNotFound: it is gone for good.
Result<std::vector<ExposedAddress>> Exposer::addresses_now(const Exposure& e) const {
  if (!e.addresses.empty()) {
    if (auto c = placements_.with_address(e.addresses.front().address); c && c->role == PlacedRole::kAway)
      return e.addresses;
  }
  // An engine that is not there says nothing of its containers.
  if (services_.engines.empty() || (!e.engine.empty() && !services_.engine(e.engine)))
    return fail(Errc::kUnavailable, "there is no engine to ask for {}", e.name);
  auto found = find_container(services_, e.engine.empty() ? e.name : e.engine + ":" + e.name);
  if (!found) return std::unexpected(std::move(found).error());
  TS_TRY_ASSIGN(auto now, exposed_addresses(found->container));
  return now.empty() ? e.addresses : now;  // it is stopped
}

// What its entry has been told before, it need not be told now. Where this node is the entry, clients wait until the
// next home has said that it is.
Result<> Exposer::give(Exposure e) {
  if (e.is_http()) {
    TS_TRY(end_here(e));
    return {};
  }
  TS_LOG_INFO("expose: port {}/{} of {} leads to {} on {} now", e.port, e.protocol, node_with(e.entry), e.name,
              node_with(e.next));
  if (!exposures_.is_entry(e) && e.entry_knows) return forget(e);
  e.given = true;
  TS_TRY(exposures_.update(e));
  return placements_.apply(true);
}

void Exposer::look_after(Exposure e) {
  bool own = exposures_.is_entry(e);
  if (e.given) {
    bool may_know = false;
    if (own || !due(e)) return;
    if (auto told = tell_entry(e, may_know); !told) {
      TS_LOG_WARN("expose: {}", told.error().message());
      return;
    }
    if (auto forgotten = forget(e); !forgotten) TS_LOG_WARN("expose: {}", forgotten.error().message());
    return;
  }
  if (!e.ending) {
    auto now = addresses_now(e);
    bool gone = !now && now.error().code() == Errc::kNotFound;
    if (gone && !e.next.empty() && e.next != e.home) {
      if (auto r = give(e); !r) TS_LOG_ERROR("expose: {}", r.error().message());
      return;
    }
    if (gone) {
      if (auto r = end_here(e); !r) TS_LOG_WARN("expose: {}", r.error().message());
      return;
    }
    if (now && *now != e.addresses) {
      e.addresses = std::move(*now);
      e.entry_knows = own;
      if (auto r = exposures_.update(e); !r) TS_LOG_ERROR("expose: {}", r.error().message());
      if (auto r = placements_.apply(); !r) TS_LOG_ERROR("expose: {}", r.error().message());
    }
  }
  if (!own && due(e)) tell_again(e);
}

// What it knows it is told now and then all the same: it may have been without this peer for a while.
bool Exposer::due(const Exposure& e) {
  MutexLock lock(mu_);
  if (is_draining(e)) return false;  // keep_up_draining()
  auto [at, fresh] = next_try_.try_emplace(e.key(), Clock::now() + kRetryEvery);
  if (fresh) return !e.entry_knows || e.ending;
  if (at->second > Clock::now()) return false;
  at->second = Clock::now() + kRetryEvery;
  return true;
}

void Exposer::tell_again(Exposure e) {
  bool may_know = false;
  auto told = tell_entry(e, may_know);
  if (told && *told) return;  // it is draining: asked again soon
  auto now = exposures_.find(e.key());
  if (!e.ending && (!now || now->ending)) {
    // It was ended meanwhile, and the entry may have heard that first.
    e.ending = true;
    told = tell_entry(e, may_know);
  } else if (told && e.ending && now && !now->ending) {
    return;  // it has been exposed again meanwhile
  } else if (told && e.ending) {
    if (auto forgotten = forget(e); !forgotten) told = std::unexpected(std::move(forgotten).error());
  } else if (e.entry_knows != told.has_value()) {
    e.entry_knows = told.has_value();
    if (auto kept = exposures_.update(e); !kept) TS_LOG_ERROR("expose: {}", kept.error().message());
  }
  if (!told) TS_LOG_WARN("expose: {}", told.error().message());
}

void Exposer::keep_up() {
  if (exposures_.forget_late()) {
    if (auto r = placements_.apply(true); !r) TS_LOG_ERROR("expose: {}", r.error().message());
  }
  for (const auto& e : exposures_.all()) {
    if (node_with(exposures_.is_home(e) ? e.entry : e.home).empty()) {
      TS_LOG_INFO("expose: port {}/{} ends with the peer that it was for", e.port, e.protocol);
      if (auto r = forget(e); !r) TS_LOG_ERROR("expose: {}", r.error().message());
      continue;
    }
    if (exposures_.is_home(e)) look_after(e);
  }
}

}  // namespace transship::migrate
