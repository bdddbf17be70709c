#include "migrate/placements.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/json_number.h"
#include "base/log.h"

namespace transship::migrate {
namespace {

using network::IpAddress;
using nlohmann::json;

constexpr const char* kAway = "away";
constexpr const char* kGuest = "guest";

json to_json(const network::PublishedPort& p) {
  return {{"protocol", p.protocol},
          {"host_address", p.host_address ? p.host_address->text() : ""},
          {"host_port", p.host_port},
          {"container_port", p.container_port}};
}

Result<network::PublishedPort> port_of(const json& j) {
  network::PublishedPort p;
  p.protocol = j.at("protocol").get<std::string>();
  p.host_port = whole<uint16_t>(j.at("host_port"));
  p.container_port = whole<uint16_t>(j.at("container_port"));
  if (auto text = j.at("host_address").get<std::string>(); !text.empty()) {
    TS_TRY_ASSIGN(p.host_address, IpAddress::parse(text));
  }
  return p;
}

Result<PlacedContainer> placed_of(const json& j) {
  PlacedContainer c;
  auto role = j.at("role").get<std::string>();
  c.role = role == kAway ? PlacedRole::kAway : role == kGuest ? PlacedRole::kGuest : PlacedRole::kInvalid;
  if (c.role == PlacedRole::kInvalid) return fail(Errc::kCorrupt, "it has the role \"{}\"", role);
  c.home = j.at("home").get<std::string>();
  c.home_id = j.at("home_id").get<std::string>();
  c.name = j.at("name").get<std::string>();
  c.bridge = j.at("bridge").get<std::string>();
  c.peer = j.at("peer").get<std::string>();
  c.late_from = j.at("late_from").get<std::string>();
  c.next = j.at("next").get<std::string>();
  c.runs = j.at("runs").get<bool>();
  c.engine = j.at("engine").get<std::string>();
  c.engine_id = j.at("engine_id").get<std::string>();
  c.gone = j.at("gone").get<bool>();
  c.leaving = j.at("leaving").get<std::string>();
  c.home_knows = j.at("home_knows").get<bool>();
  for (const auto& text : j.at("addresses")) {
    TS_TRY_ASSIGN(auto address, IpAddress::parse(text.get<std::string>()));
    c.addresses.push_back(address);
  }
  for (const auto& port : j.at("ports")) {
    TS_TRY_ASSIGN(auto p, port_of(port));
    c.ports.push_back(std::move(p));
  }
  return c;
}

}  // namespace

std::string to_text(const PlacedContainer& c) {
  json j = {{"role", c.role == PlacedRole::kAway ? kAway : kGuest},
            {"home", c.home},
            {"home_id", c.home_id},
            {"name", c.name},
            {"bridge", c.bridge},
            {"peer", c.peer},
            {"late_from", c.late_from},
            {"next", c.next},
            {"runs", c.runs},
            {"engine", c.engine},
            {"engine_id", c.engine_id},
            {"gone", c.gone},
            {"leaving", c.leaving},
            {"home_knows", c.home_knows},
            {"addresses", json::array()},
            {"ports", json::array()}};
  for (const auto& a : c.addresses) j["addresses"].push_back(a.text());
  for (const auto& p : c.ports) j["ports"].push_back(to_json(p));
  return j.dump();
}

Result<PlacedContainer> parse_placed(const std::string& key, const std::string& text) {
  auto read = [&]() -> Result<PlacedContainer> {
    try {
      return placed_of(json::parse(text));
    } catch (const json::exception& e) {
      return fail(Errc::kCorrupt, "{}", e.what());
    }
  };
  auto c = read();
  if (!c)
    return std::unexpected(
        Error(Errc::kCorrupt, fmt::format("what the store has of {}: {}", key, c.error().message())));
  return c;
}

Result<> Placements::load() {
  TS_TRY_ASSIGN(auto stored, store_.placed());
  std::vector<PlacedContainer> known;
  Result<> outcome;
  for (const auto& one : stored) {
    auto c = parse_placed(one.key, one.facts);
    if (c && !c->leaving.empty())
      (void)store_.remove_placed(one.key);  // it left before this daemon came
    else if (c)
      known.push_back(std::move(*c));
    else
      outcome = std::unexpected(std::move(c).error());
  }
  MutexLock lock(mu_);
  ++change_;
  known_ = std::move(known);
  return outcome;
}

std::vector<PlacedContainer> Placements::all() const {
  MutexLock lock(mu_);
  return known_;
}

std::optional<PlacedContainer> Placements::find(const std::string& key) const {
  MutexLock lock(mu_);
  auto found = std::ranges::find_if(known_, [&](const auto& c) { return c.key() == key; });
  return found == known_.end() ? std::nullopt : std::optional(*found);
}

std::optional<PlacedContainer> Placements::with_address(const IpAddress& address) const {
  MutexLock lock(mu_);
  auto found = std::ranges::find_if(known_, [&](const auto& c) { return std::ranges::contains(c.addresses, address); });
  return found == known_.end() ? std::nullopt : std::optional(*found);
}

Result<> Placements::put(const PlacedContainer& c) {
  if (!c.staged) TS_TRY(store_.put_placed({c.key(), to_text(c)}));
  remember(c);
  return {};
}

void Placements::remember(const PlacedContainer& c) {
  MutexLock lock(mu_);
  ++change_;
  std::erase_if(known_, [&](const auto& other) { return other.key() == c.key(); });
  known_.push_back(c);
}

Result<> Placements::remove(const std::string& key) {
  TS_TRY(store_.remove_placed(key));
  MutexLock lock(mu_);
  ++change_;
  std::erase_if(known_, [&](const auto& c) { return c.key() == key; });
  return {};
}

network::Placement Placements::wanted() const {
  network::Placement p;
  add_moved(p);
  if (exposures_ != nullptr) exposures_->add_to(p, paths_);
  return p;
}

// What has no way at the moment, since the tunnel to its peer is not there, is left out until it has.
void Placements::add_moved(network::Placement& p) const {
  MutexLock lock(mu_);
  if (known_.empty()) return;  // the tunnels let nothing pass by themselves
  p.tunnels = paths_.interfaces();
  for (const auto& c : known_) {
    auto tunnel = paths_.interface_to(c.peer);
    if (!tunnel) {
      TS_LOG_WARN("network: {} has no way to {}: {}", c.name, c.peer, tunnel.error().message());
      continue;
    }
    if (c.role == PlacedRole::kAway) {
      p.away.push_back({.id = c.name,
                        .addresses = c.addresses,
                        .tunnel = *tunnel,
                        .bridge = c.bridge,
                        .ports = c.ports,
                        .staged = c.staged,
                        .late = c.coming,
                        .back = c.back.has_value()});
      continue;
    }
    network::GuestContainer guest{.id = c.name, .addresses = c.addresses, .tunnel = *tunnel, .bridge = c.bridge};
    if (auto late = paths_.interface_to(c.late_from); late) guest.late.push_back(*late);
    p.guests.push_back(std::move(guest));
  }
}

bool Placements::is_still(uint64_t change) const {
  MutexLock lock(mu_);
  return change_ == change;
}

// Moves switch ways beside this, in their gap, and cannot wait for it.
Result<> Placements::apply(bool anyway) {
  constexpr int kMost = 5;  // each change meanwhile is followed by an apply() of who made it
  MutexLock turn(applying_);
  for (int i = 0; i < kMost; ++i) {
    uint64_t change = 0;
    {
      MutexLock lock(mu_);
      change = change_;
    }
    auto p = wanted();
    if (p == network::Placement{} && applied_nothing_ && !anyway) return {};
    applied_nothing_ = false;
    auto still = [this, change] { return is_still(change); };
    TS_TRY(to_kernel_ ? to_kernel_(p, still) : network::PlacementKernel().apply(p, still));
    if (still()) {
      applied_nothing_ = p == network::Placement{};
      return {};
    }
    if (!to_kernel_) switch_again();
  }
  return {};
}

// The last change of routes may have been under way when a way was switched.
void Placements::switch_again() const {
  for (const auto& c : all()) {
    if (c.role != PlacedRole::kAway || c.staged) continue;
    auto tunnel = paths_.interface_to(c.peer);
    auto r = c.back   ? network::lead_home(c.addresses, c.bridge)
             : tunnel ? network::lead_away(c.addresses, *tunnel, c.bridge)
                      : Result<>();
    if (!r) TS_LOG_WARN("network: {}: {}", c.name, r.error().message());
  }
}

Result<network::PlacementDifference> Placements::compare() {
  MutexLock turn(applying_);
  return network::PlacementKernel().compare(wanted());
}

}  // namespace transship::migrate
