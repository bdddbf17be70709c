#include "migrate/exposures.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/json_number.h"
#include "base/log.h"
#include "base/text.h"
#include "base/wall_clock.h"
#include "migrate/placements.h"

namespace transship::migrate {
namespace {

using network::ExposedAddress;
using network::IpAddress;
using nlohmann::json;

// Longer than old connections take to end, however slow.
constexpr milliseconds kLate{10'000};
// Of inner_address(): below the ports that connections begin from.
constexpr uint16_t kFirstInnerPort = 20'000;
constexpr uint16_t kLastInnerPort = 29'999;
// Homes ask every second, and put it into the kernel every 30 s at least.
constexpr milliseconds kHearLimit{10'000};

Result<Exposure> exposure_of(const json& j) {
  Exposure e;
  e.entry = j.at("entry").get<std::string>();
  e.home = j.at("home").get<std::string>();
  e.protocol = j.at("protocol").get<std::string>();
  e.port = whole<uint16_t>(j.at("port"));
  e.name = j.at("name").get<std::string>();
  e.engine = j.at("engine").get<std::string>();
  e.container_port = whole<uint16_t>(j.at("container_port"));
  e.entry_knows = j.at("entry_knows").get<bool>();
  e.ending = j.at("ending").get<bool>();
  e.next = j.value("next", "");
  e.given = j.value("given", false);
  // Not in what an earlier version has written.
  e.health = j.value("health", "");
  e.inner_port = whole_or<uint16_t>(j, "inner_port", 0);
  e.ending_ms = whole_or<int64_t>(j, "ending_ms", 0);
  for (const auto& text : j.at("addresses")) {
    TS_TRY_ASSIGN(auto a, parse_exposed_address(text.get<std::string>()));
    e.addresses.push_back(a);
  }
  return e;
}

// Of both families where there are both.
Result<Fd> bind_port(const std::string& protocol, uint16_t port) {
  int type = (protocol == "udp" ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC;
  Fd fd(::socket(AF_INET6, type, 0));
  if (fd.valid()) {
    int no = 0;
    (void)::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    sockaddr_in6 any = {};
    any.sin6_family = AF_INET6;
    any.sin6_port = htons(port);
    if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&any), sizeof any) == 0) return fd;
  } else {
    fd = Fd(::socket(AF_INET, type, 0));
    if (!fd.valid()) return fail_errno(errno, "make a socket");
    sockaddr_in any = {};
    any.sin_family = AF_INET;
    any.sin_port = htons(port);
    if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&any), sizeof any) == 0) return fd;
  }
  int e = errno;
  if (e == EADDRINUSE)
    return fail(Errc::kAlreadyExists, "port {}/{} is taken: something listens there", port, protocol);
  return fail_errno(e, "take port {}/{}", port, protocol);
}

}  // namespace

Result<ExposedAddress> parse_exposed_address(const std::string& text) {
  auto slash = text.find('/');
  ExposedAddress a;
  TS_TRY_ASSIGN(a.address, IpAddress::parse(text.substr(0, slash)));
  if (slash == std::string::npos) return a;
  TS_TRY_ASSIGN(uint64_t bits, parse_u64(text.substr(slash + 1), "a prefix"));
  if (bits > a.address.bits()) return fail(Errc::kInvalidArgument, "\"{}\" has no prefix of its family", text);
  a.prefix = static_cast<unsigned>(bits);
  return a;
}

std::string exposed_address_text(const ExposedAddress& a) {
  return a.prefix == 0 ? a.address.text() : fmt::format("{}/{}", a.address.text(), a.prefix);
}

std::string to_text(const Exposure& e) {
  json j = {{"entry", e.entry},
            {"home", e.home},
            {"protocol", e.protocol},
            {"port", e.port},
            {"name", e.name},
            {"engine", e.engine},
            {"container_port", e.container_port},
            {"entry_knows", e.entry_knows},
            {"ending", e.ending},
            {"next", e.next},
            {"given", e.given},
            {"health", e.health},
            {"inner_port", e.inner_port},
            {"ending_ms", e.ending_ms},
            {"addresses", json::array()}};
  for (const auto& a : e.addresses) j["addresses"].push_back(exposed_address_text(a));
  return j.dump();
}

Result<Exposure> parse_exposure(const std::string& key, const std::string& text) {
  auto read = [&]() -> Result<Exposure> {
    try {
      return exposure_of(json::parse(text));
    } catch (const json::exception& e) {
      return fail(Errc::kCorrupt, "{}", e.what());
    }
  };
  auto e = read();
  if (e && e->key() == key) return e;
  return fail(Errc::kCorrupt, "what the store has of the exposed port {}: {}", key,
              e ? "it is another one's" : e.error().message());
}

bool is_draining(const Exposure& e, milliseconds more) {
  auto since = milliseconds(unix_ms_now() - e.ending_ms);
  return e.is_http() && e.ending && since >= milliseconds(0) && since < kDrainLimit + more;
}

Result<> Exposures::load() {
  TS_TRY_ASSIGN(auto stored, store_.exposed());
  Result<> outcome;
  MutexLock lock(mu_);
  for (const auto& one : stored) {
    auto e = parse_exposure(one.key, one.facts);
    if (!e) {
      outcome = std::unexpected(std::move(e).error());
      continue;
    }
    e->entry_knows = false;  // it may have forgotten: it is told again
    if (auto held = hold_port_locked(*e); !held)
      TS_LOG_ERROR("expose: {}, and it leads to {} all the same", held.error().message(), e->name);
    known_[one.key] = std::move(*e);
  }
  return outcome;
}

std::vector<Exposure> Exposures::all() const {
  MutexLock lock(mu_);
  std::vector<Exposure> list;
  list.reserve(known_.size());
  for (const auto& [key, e] : known_) list.push_back(e);
  return list;
}

std::optional<Exposure> Exposures::find(const std::string& key) const {
  MutexLock lock(mu_);
  auto found = known_.find(key);
  return found == known_.end() ? std::nullopt : std::optional(found->second);
}

// HAProxy takes its port itself.
Result<> Exposures::hold_port_locked(const Exposure& e) {
  if (!is_entry(e) || e.is_http() || held_.contains(e.key())) return {};
  TS_TRY_ASSIGN(Fd fd, bind_port(e.protocol, e.port));
  held_.emplace(e.key(), std::move(fd));
  return {};
}

// While HAProxy does not run nobody listens there.
Result<> Exposures::check_port_locked(const Exposure& e) const {
  if (!is_entry(e)) return {};
  for (const auto& [key, other] : known_)
    if (is_entry(other) && other.port == e.port && other.transport() == e.transport() && other.is_http() != e.is_http())
      return fail(Errc::kAlreadyExists, "port {}/{} leads to {} already, as {}", e.port, e.transport(), other.name,
                  other.protocol);
  return {};
}

uint16_t Exposures::free_inner_port_locked() const {
  for (uint16_t port = kFirstInnerPort; port <= kLastInnerPort; ++port)
    if (std::ranges::none_of(known_, [&](const auto& known) { return known.second.inner_port == port; })) return port;
  return 0;
}

Result<> Exposures::put(const Exposure& e) {
  MutexLock lock(mu_);
  return put_locked(e);
}

Result<> Exposures::add(const Exposure& e) {
  MutexLock lock(mu_);
  auto known = known_.find(e.key());
  if (known == known_.end()) return put_locked(e);
  return fail(Errc::kAlreadyExists, "port {}/{} {} {} already", e.port, e.protocol,
              known->second.ending ? "is still to be taken from" : "leads to", known->second.name);
}

Result<> Exposures::update(const Exposure& e) {
  MutexLock lock(mu_);
  return known_.contains(e.key()) ? put_locked(e) : Result<>();
}

Result<> Exposures::put_locked(Exposure e) {
  TS_TRY(check_port_locked(e));
  TS_TRY(hold_port_locked(e));
  if (is_entry(e) && e.is_http() && e.inner_port == 0) e.inner_port = free_inner_port_locked();
  if (is_entry(e) && e.is_http() && e.inner_port == 0)
    return fail(Errc::kNoSpace, "there are as many containers behind entries of this node as there can be");
  auto stored = store_.put_exposed({e.key(), to_text(e)});
  if (stored)
    known_[e.key()] = e;
  else if (!known_.contains(e.key()))
    held_.erase(e.key());
  return stored;
}

Result<> Exposures::remove(const std::string& key) {
  TS_TRY(store_.remove_exposed(key));
  MutexLock lock(mu_);
  known_.erase(key);
  held_.erase(key);
  return {};
}

void Exposures::keep_late(const Exposure& e) {
  if (e.is_http()) return;  // its connections are HAProxy's, and end with the old one
  MutexLock lock(mu_);
  late_.push_back({e, Deadline::in(kLate)});
}

bool Exposures::forget_late() {
  MutexLock lock(mu_);
  return std::erase_if(late_, [](const Late& l) { return l.until.passed(); }) > 0;
}

std::string Exposures::peer_named(const std::string& fingerprint) const {
  auto peers = store_.peers();
  if (!peers) return {};
  auto found = std::ranges::find(*peers, fingerprint, &state::Peer::fingerprint);
  return found == peers->end() ? std::string() : found->name;
}

void Exposures::add_to(network::Placement& placement, const TunnelPaths& paths) const {
  auto exposures = all();
  if (exposures.empty()) return;
  placement.tunnels = paths.interfaces();
  placement.entry_sources = network::entry_sources(own_);
  for (const auto& e : exposures) {
    bool through_tunnel = !is_entry(e) || !is_home(e);
    auto way = through_tunnel ? paths.interface_to(peer_named(is_entry(e) ? e.home : e.entry)) : std::string();
    if (!way) TS_LOG_WARN("expose: port {}/{} has no way to {}: {}", e.port, e.protocol, e.name, way.error().message());
    if (is_entry(e)) {
      placement.entries.push_back({.protocol = e.transport(),
                                   .port = e.is_http() ? e.inner_port : e.port,
                                   .addresses = e.addresses,
                                   .container_port = e.container_port,
                                   .tunnel = way.value_or(""),
                                   .shut = !way || e.given,
                                   .inner = e.is_http()});
    } else if ((!e.ending || is_draining(e, kHearLimit)) && !e.given) {
      network::ExposedPort port{e.transport(), {}, e.container_port, way.value_or("")};
      for (const auto& a : e.addresses) port.addresses.push_back(a.address);
      placement.exposed.push_back(std::move(port));
    }
  }
  add_late_to(placement, paths);
}

// Until forget_late(). What is not to pass a tunnel is known to connection tracking.
void Exposures::add_late_to(network::Placement& placement, const TunnelPaths& paths) const {
  std::vector<Late> late;
  {
    MutexLock lock(mu_);
    late = late_;
  }
  for (const auto& [e, until] : late) {
    if (is_home(e) && is_entry(e)) continue;
    auto way = paths.interface_to(peer_named(is_home(e) ? e.entry : e.home));
    if (!way) continue;
    if (is_home(e)) {
      network::ExposedPort port{e.protocol, {}, e.container_port, *way};
      for (const auto& a : e.addresses) port.addresses.push_back(a.address);
      placement.exposed.push_back(std::move(port));
      continue;
    }
    placement.entries.push_back({.protocol = e.protocol,
                                 .port = e.port,
                                 .addresses = e.addresses,
                                 .container_port = e.container_port,
                                 .tunnel = *way,
                                 .late = true});
  }
}

}  // namespace transship::migrate
