#include "node/network_watch.h"

#include <net/if.h>

#include "base/log.h"

namespace transship::node {
namespace {

constexpr milliseconds kWatchEvery{1'000};
constexpr milliseconds kGuestsEvery{5'000};
constexpr milliseconds kLookEvery{30'000};

}  // namespace

Result<local::NetworkCheckReply> check_network(migrate::Placements& placements, const migrate::Exposer& exposer,
                                               bool repair) {
  TS_TRY_ASSIGN(auto found, placements.compare());
  local::NetworkCheckReply reply;
  for (const auto& c : placements.all()) {
    if (c.back || c.staged) continue;
    auto* container = reply.add_containers();
    container->set_name(c.name);
    for (const auto& a : c.addresses) container->add_addresses(a.text());
    container->set_away(c.role == migrate::PlacedRole::kAway);
    container->set_peer(c.peer);
  }
  for (const auto& one : found.missing) reply.add_missing(one);
  auto http_missing = exposer.missing_http();  // looked after twice a second in any case
  for (const auto& one : http_missing) reply.add_missing(one);
  for (const auto& one : found.extra) reply.add_extra(one);
  if (!repair || (found.empty() && http_missing.empty())) return reply;
  TS_TRY(placements.apply(true));
  TS_TRY_ASSIGN(auto left, placements.compare());
  reply.set_repaired(left.empty() && http_missing.empty());
  return reply;
}

NetworkWatch::NetworkWatch(migrate::Placements& placements, migrate::TunnelCutover& cutover,
                           const migrate::TunnelPaths& paths)
    : placements_(placements), cutover_(cutover), paths_(paths), stop_(Cancel::create().value()) {
  look();
  thread_ = Thread("network", [this] { run(); });
}

NetworkWatch::~NetworkWatch() {
  stop_.cancel("the daemon ends");
  thread_.join();
}

// Which they are, and since when: one that is made anew has another number, and no routes.
std::string NetworkWatch::interfaces() const {
  std::string text;
  for (const auto& name : paths_.interfaces()) text += fmt::format("{} {},", name, ::if_nametoindex(name.c_str()));
  return text;
}

void NetworkWatch::look() {
  auto done = placements_.apply();
  std::string error = done ? "" : done.error().message();
  if (error != last_error_ && !error.empty()) TS_LOG_ERROR("network: {}", error);
  last_error_ = error;
}

void NetworkWatch::run() {
  auto seen = interfaces();
  auto next = Deadline::in(kLookEvery);
  auto guests = Deadline::in(kGuestsEvery);
  while (sleep_for(kWatchEvery, stop_)) {
    cutover_.forget_who_is_home();
    if (guests.passed()) {
      cutover_.tell_homes();
      guests = Deadline::in(kGuestsEvery);
    }
    auto now = interfaces();
    if (now == seen && !next.passed()) continue;
    seen = now;
    next = Deadline::in(kLookEvery);
    look();
  }
}

}  // namespace transship::node
