#include "node/container_names.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "base/log.h"

namespace transship::node {
namespace {

constexpr milliseconds kAskEvery{5'000};
constexpr milliseconds kAskWatchedEvery{30'000};
// Events come in crowds.
constexpr milliseconds kSettle{30};
// While something arrives: the engine is busy with it, and clients may wait.
constexpr milliseconds kArrivalPause{5'000};
constexpr milliseconds kWatchAgain{5'000};
// A watch that ends sooner never was one.
constexpr milliseconds kWatched{1'000};

std::vector<network::IpAddress> to_addresses(const std::vector<engine::Address>& given) {
  std::vector<network::IpAddress> addresses;
  for (const auto& a : given) {
    auto address = network::IpAddress::parse(a.ip);
    if (address && addresses.size() < names::kMaxAddresses) addresses.push_back(*address);
  }
  return addresses;
}

}  // namespace

Result<std::unique_ptr<ContainerNames>> ContainerNames::start(migrate::Services& services,
                                                              const migrate::Placements& placements, Tell tell) {
  TS_TRY_ASSIGN(Cancel stop, Cancel::create());
  std::unique_ptr<ContainerNames> names(new ContainerNames(services, placements, std::move(tell), std::move(stop)));
  services.passing.on_change([n = names.get()] {
    MutexLock lock(n->mu_);
    n->wanted_ = n->urgent_ = true;
    n->woken_.notify_all();
  });
  names->thread_ = Thread("names-list", [n = names.get()] { n->run(); });
  for (const auto& engine : services.engines)
    names->watchers_.emplace_back("names-watch", [n = names.get(), e = engine.get()] { n->watch(*e); });
  return names;
}

ContainerNames::~ContainerNames() {
  services_.passing.on_change({});
  {
    MutexLock lock(mu_);
    stop_.cancel("the daemon ends");
    woken_.notify_all();
  }
  for (auto& watcher : watchers_) watcher.join();
  thread_.join();
}

void ContainerNames::changed(const std::string& id) {
  MutexLock lock(mu_);
  if (id.empty())
    all_anew_ = true;
  else
    anew_.push_back(id);
  wanted_ = true;
  woken_.notify_all();
}

void ContainerNames::watch(engine::Engine& engine) {
  while (!stop_.cancelled()) {
    {
      MutexLock lock(mu_);
      telling_.insert(&engine);
    }
    auto begin = Clock::now();
    auto ended = engine.watch([this](const std::string& id) { changed(id); }, stop_);
    {
      MutexLock lock(mu_);
      telling_.erase(&engine);
    }
    if (!ended) TS_LOG_DEBUG("names: {}", ended.error().message());
    if (!sleep_for(kWatchAgain, stop_)) return;
    if (Clock::now() - begin > kWatchAgain + kWatched) changed("");  // what happened meanwhile
  }
}

bool ContainerNames::wait_for_change() {
  auto asked = Clock::now();
  MutexLock lock(mu_);
  while (!stop_.cancelled() && !urgent_) {
    bool arriving = services_.passing.any();
    bool all_tell = telling_.size() == services_.engines.size();
    auto pause = arriving ? kArrivalPause : wanted_ ? kSettle : all_tell ? kAskWatchedEvery : kAskEvery;
    if (Clock::now() >= asked + pause) break;
    woken_.wait_until(mu_, asked + pause);
  }
  return !stop_.cancelled();
}

void ContainerNames::run() {
  do {
    std::vector<std::string> anew;
    bool all = false;
    std::set<const engine::Engine*> quiet;  // would have told
    {
      MutexLock lock(mu_);
      if (!wanted_ && !urgent_) quiet = telling_;
      wanted_ = urgent_ = false;
      anew.swap(anew_);
      std::swap(all, all_anew_);
    }
    List containers;
    List left;
    for (const auto& engine : services_.engines) {
      auto& of = engines_[std::string(engine->name())];
      for (auto& [id, known] : of.known)
        if (all || std::ranges::contains(anew, id)) known.fresh = false;
      if (!quiet.contains(engine.get()) || of.again.passed()) ask(*engine, of);
      for (const auto& [id, known] : of.known) containers.push_back(known.container);
      left.insert(left.end(), of.left.begin(), of.left.end());
      of.left.clear();
    }
    if (containers.size() > names::kMaxNames) containers.resize(names::kMaxNames);
    tell_(containers, left);
  } while (wait_for_change());
}

// An engine that does not answer has not lost its containers.
void ContainerNames::ask(engine::Engine& engine, PerEngine& of) {
  auto listed = list(engine, of);
  of.again = Deadline::in(listed ? kAskWatchedEvery : kAskEvery);
  std::string problem = listed ? "" : listed.error().message();
  if (problem != of.problem && !problem.empty()) TS_LOG_WARN("names: {}: {}", engine.name(), problem);
  of.problem = problem;
}

Result<std::vector<network::IpAddress>> ContainerNames::addresses(engine::Engine& engine, const PerEngine& of,
                                                                  const engine::Summary& row) const {
  auto before = of.known.find(row.id);
  if (before != of.known.end() && before->second.fresh && before->second.pid == row.pid)
    return before->second.container.addresses;
  TS_TRY_ASSIGN(auto given, engine.addresses(row.id));
  return to_addresses(given);
}

Result<> ContainerNames::list(engine::Engine& engine, PerEngine& of) {
  TS_TRY_ASSIGN(auto rows, engine.list(false));
  std::map<std::string, Known> known;
  for (const auto& row : rows) {
    if (row.state != "running" && row.state != "paused") continue;
    if (services_.passing.has(row.id)) continue;
    auto has = addresses(engine, of, row);
    if (!has && has.error().code() == Errc::kNotFound) continue;
    if (!has) return std::unexpected(std::move(has).error());
    Known now{
        .pid = row.pid, .fresh = true, .container = {.name = row.name, .addresses = *has, .home = {}, .home_id = {}}};
    identify(now.container, row.id);
    known[row.id] = std::move(now);
  }
  for (const auto& [id, before] : of.known)
    if (!known.contains(id) && services_.passing.has_left(id)) of.left.push_back(before.container);
  of.known = std::move(known);
  return {};
}

void ContainerNames::identify(names::NamedContainer& c, const std::string& id) const {
  c.home = services_.identity.fingerprint().text();
  c.home_id = id;
  std::tie(c.before_home, c.before_id) = services_.passing.predecessor(id);
  for (const auto& placed : placements_.all()) {
    if (placed.role != migrate::PlacedRole::kGuest || placed.engine_id != id) continue;
    c.home = placed.home;
    c.home_id = placed.home_id;
  }
}

}  // namespace transship::node
