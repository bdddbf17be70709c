#include "network/tunnels.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/log.h"

namespace transship::network {

Result<> take_tunnels_down(const std::string& run_dir, const std::vector<std::string>& keep) {
  Result<> outcome;
  for (const auto& interface : recorded_tunnels(run_dir)) {
    if (std::ranges::contains(keep, interface)) continue;
    auto down = take_tunnel_down({.interface = interface, .run_dir = run_dir});
    if (down) TS_LOG_INFO("tunnel interface={} taken down", interface);
    if (!down && outcome) outcome = std::move(down);
  }
  return outcome;
}

std::shared_ptr<Tunnel> Tunnels::find(const std::string& peer) const {
  MutexLock lock(mu_);
  auto found = tunnels_.find(peer);
  return found == tunnels_.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<Tunnel>> Tunnels::all() const {
  std::vector<std::shared_ptr<Tunnel>> some;
  {
    MutexLock lock(mu_);
    for (const auto& [name, tunnel] : tunnels_) some.push_back(tunnel);
  }
  std::ranges::sort(some, {}, [](const auto& t) { return t->options().port; });
  return some;
}

std::shared_ptr<Tunnel> Tunnels::tunnel_for(const TunnelPeer& peer) {
  auto options = options_;
  options.interface = interface_of(peer.number);
  options.port = port_of(peer.number);
  MutexLock lock(mu_);
  auto& tunnel = tunnels_[peer.name];
  if (!tunnel || tunnel->options().interface != options.interface) tunnel = std::make_shared<Tunnel>(options, key_);
  return tunnel;
}

Result<> Tunnels::set_peers(const std::vector<TunnelPeer>& peers) {
  MutexLock turn(changing_);
  std::set<std::string> names;
  std::vector<std::string> interfaces;
  for (const auto& peer : peers) {
    names.insert(peer.name);
    interfaces.push_back(interface_of(peer.number));
  }
  {
    MutexLock lock(mu_);
    std::erase_if(tunnels_, [&](const auto& t) { return !names.contains(t.first); });
  }
  // Before the others come up: their numbers, and so their ports, may be the same.
  Result<> outcome = take_tunnels_down(options_.run_dir, interfaces);
  for (const auto& peer : peers) {
    auto up = tunnel_for(peer)->set_peer(peer);
    if (!up && outcome) outcome = std::move(up);
  }
  return outcome;
}

Result<size_t> Tunnels::hurry_peers() {
  size_t hurried = 0;
  for (const auto& tunnel : all()) {
    TS_TRY_ASSIGN(size_t some, tunnel->hurry_peer());
    hurried += some;
  }
  return hurried;
}

bool Tunnels::notice_end() {
  bool ended = false;
  for (const auto& tunnel : all()) ended = tunnel->notice_end() || ended;
  return ended;
}

TunnelStatus Tunnels::status() const {
  auto some = all();
  if (some.empty()) return {.backend = "none yet: no peer has told its tunnel key"};
  auto up = std::ranges::find_if(some, [](const auto& t) { return t->status().up; });
  return up == some.end() ? some.front()->status() : (*up)->status();
}

std::map<std::string, TunnelPeerStatus> Tunnels::peers() const {
  std::map<std::string, TunnelPeerStatus> status;
  for (const auto& tunnel : all()) {
    auto one = tunnel->peer();
    if (one) status.insert(std::move(*one));
  }
  return status;
}

Result<std::chrono::microseconds> Tunnels::ping_peer(const std::string& peer, Deadline deadline,
                                                     const Cancel& cancel) const {
  auto tunnel = find(peer);
  if (!tunnel) return fail(Errc::kNotFound, "{} has no place in the tunnel: its key is not known", peer);
  return tunnel->ping_peer(deadline, cancel);
}

Result<std::string> Tunnels::interface_to(const std::string& peer) const {
  auto tunnel = find(peer);
  auto status = tunnel ? tunnel->status() : TunnelStatus{.backend = "its key is not known"};
  if (status.up) return tunnel->options().interface;
  return std::unexpected(Error(Errc::kUnavailable, fmt::format("there is no tunnel to {}: {}", peer, status.backend))
                             .with_remedy(fmt::format("transship peer check {} shows what is wrong", peer)));
}

std::vector<std::string> Tunnels::interfaces() const {
  std::vector<std::string> names;
  for (const auto& tunnel : all())
    if (tunnel->status().up) names.push_back(tunnel->options().interface);
  return names;
}

}  // namespace transship::network
