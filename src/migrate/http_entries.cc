#include "migrate/http_entries.h"

#include <algorithm>

#include "base/log.h"

namespace transship::migrate {
namespace {

// What could not be done a moment ago, since a program or a port is missing.
constexpr milliseconds kRetryEvery{5'000};

// IPv4 where it has one: every host has that.
network::IpAddress way_to(const Exposure& e) {
  bool v4 = std::ranges::any_of(e.addresses, [](const auto& a) { return a.address.is_v4(); });
  return network::inner_address(v4);
}

}  // namespace

std::vector<gateway::Backend> HttpEntries::backends_of(const std::vector<Behind>& behind) {
  std::vector<gateway::Backend> all;
  all.reserve(behind.size());
  for (const auto& b : behind) all.push_back(b.backend);
  return all;
}

bool HttpEntries::is_paused(const std::string& key) const {
  MutexLock lock(mu_);
  auto found = paused_.find(key);
  return found != paused_.end() && !found->second.passed();
}

std::map<uint16_t, std::vector<HttpEntries::Behind>> HttpEntries::wanted() const {
  std::map<uint16_t, std::vector<Behind>> all;
  for (const auto& e : exposures_.all()) {
    if (!exposures_.is_entry(e) || !e.is_http()) continue;
    all[e.port].push_back({e,
                           {.name = gateway::server_name(e.name, e.inner_port),
                            .address = way_to(e),
                            .port = e.inner_port,
                            .draining = e.ending,
                            .paused = is_paused(e.key())}});
  }
  return all;
}

Result<> HttpEntries::open(uint16_t port) {
  MutexLock turn(working_);
  auto all = wanted();
  return bring_up(port, all[port]);
}

void HttpEntries::pause(const std::string& key, bool paused) {
  {
    MutexLock lock(mu_);
    paused_.erase(key);
    if (paused) paused_.emplace(key, Deadline::in(kPauseLimit));
  }
  MutexLock turn(working_);
  for (const auto& [port, behind] : wanted())
    for (const auto& b : behind) {
      if (b.exposure.key() != key) continue;
      auto done = bring_up(port, behind);  // an error is logged there
      TS_LOG_INFO("http: port {}: {} {}{}", port, b.exposure.name, paused ? "moves" : "is back",
                  done ? "" : ", which HAProxy did not hear");
      break;
    }
}

Result<> HttpEntries::bring_up(uint16_t port, const std::vector<Behind>& behind) {
  auto& entry = entries_[port];
  auto health = behind.empty() ? std::string() : behind.front().exposure.health;
  if (!entry.process || entry.process->entry().health != health)
    entry.process = std::make_unique<gateway::Haproxy>(options_, gateway::Entry{port, health});
  auto backends = backends_of(behind);
  Result<> done;
  if (!gateway::has_inner_addresses(options_.ipv6)) done = gateway::put_inner_addresses(options_.ipv6);
  if (done) done = entry.process->keep(backends);
  if (done) done = balance(entry, behind);
  auto problem = done ? std::string() : done.error().message();
  if (problem != entry.problem && !problem.empty()) TS_LOG_WARN("http: port {}: {}", port, problem);
  entry.problem = problem;
  entry.next_try = Deadline::in(done ? milliseconds(0) : kRetryEvery);
  MutexLock lock(mu_);
  problems_[port] = std::move(problem);
  if (!done)
    for (const auto& b : behind) states_[b.exposure.key()] = gateway::state_word(b.backend, std::nullopt);
  return done;
}

Result<> HttpEntries::balance(OneEntry& entry, const std::vector<Behind>& behind) {
  auto backends = backends_of(behind);
  TS_TRY_ASSIGN(auto before, entry.process->servers());
  auto commands = gateway::changes(backends, before);
  // What has just come may still have to be paused: whether there are others is known only now.
  auto after = before;
  Result<> said;
  if (!commands.empty()) {
    said = entry.process->say(commands);
    TS_TRY_ASSIGN(after, entry.process->servers());
  }
  MutexLock lock(mu_);
  for (const auto& b : behind) {
    auto key = b.exposure.key();
    auto now = gateway::find_server(after, b.backend.name);
    auto was = gateway::find_server(before, b.backend.name);
    states_[key] = gateway::state_word(b.backend, now);
    // It must have been drained for a while already: a request may just have been given to it.
    idle_[key] = b.backend.draining && (!now || (was && was->drain && now->requests == 0));
  }
  return said;
}

void HttpEntries::take_down(uint16_t port) {
  if (auto r = gateway::end_haproxy(options_, port); !r) TS_LOG_ERROR("http: {}", r.error().message());
  entries_.erase(port);
  MutexLock lock(mu_);
  problems_.erase(port);
}

std::vector<std::string> HttpEntries::keep_up() {
  MutexLock turn(working_);
  auto all = wanted();
  // What a daemon that was killed may have left, too.
  bool first = !std::exchange(looked_for_old_, true);
  if (first)
    for (auto port : gateway::haproxies(options_)) entries_.try_emplace(port);
  bool had_some = first || !entries_.empty();
  std::vector<uint16_t> over;
  for (const auto& [port, entry] : entries_)
    if (!all.contains(port)) over.push_back(port);
  for (auto port : over) take_down(port);
  if (had_some && all.empty()) {
    if (auto r = gateway::remove_inner_addresses(); !r) TS_LOG_WARN("http: {}", r.error().message());
    if (auto r = gateway::remove_directory(options_); !r) TS_LOG_WARN("http: {}", r.error().message());
  }
  for (const auto& [port, behind] : all) {
    auto& entry = entries_[port];
    bool ended = entry.process && entry.process->notice_end();
    if (ended || entry.next_try.passed()) (void)bring_up(port, behind);  // logged there
  }
  std::vector<std::string> drained;
  std::map<std::string, std::string> states;
  MutexLock lock(mu_);
  for (const auto& [port, behind] : all)
    for (const auto& b : behind) {
      auto key = b.exposure.key();
      states[key] = states_[key];
      if (b.exposure.ending && (idle_[key] || !is_draining(b.exposure) || !problems_[port].empty()))
        drained.push_back(key);
    }
  std::erase_if(paused_, [](const auto& one) { return one.second.passed(); });
  std::erase_if(idle_, [&](const auto& one) { return !states.contains(one.first); });
  states_ = std::move(states);
  return drained;
}

std::string HttpEntries::state_of(const std::string& key) const {
  MutexLock lock(mu_);
  auto found = states_.find(key);
  return found == states_.end() ? std::string() : found->second;
}

std::vector<std::string> HttpEntries::missing() const {
  std::vector<std::string> all;
  {
    MutexLock lock(mu_);
    for (const auto& [port, problem] : problems_)
      if (!problem.empty()) all.push_back(fmt::format("HAProxy of port {}: {}", port, problem));
  }
  if (!wanted().empty() && !gateway::has_inner_addresses(options_.ipv6))
    all.push_back(fmt::format("address {} of lo", network::inner_address(true).text()));
  return all;
}

}  // namespace transship::migrate
