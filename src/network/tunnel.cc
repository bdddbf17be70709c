#include "network/tunnel.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <set>

#include "base/log.h"
#include "base/text.h"
#include "network/ping.h"
#include "network/tunnel_table.h"
#include "sys/file.h"
#include "sys/process.h"

namespace transship::network {
namespace {

constexpr unsigned kOverIpv4 = 60;  // outer IP 20, UDP 8, WireGuard 32
constexpr unsigned kOverIpv6 = 80;
constexpr unsigned kLeastMtu = 1280;  // IPv6 asks for it
constexpr unsigned kMostMtu = 9000;   // the loopback interface says 65536
constexpr unsigned kUsualMtu = 1500 - kOverIpv6;
// Packets. The kernel gives other links 1000; behind this one is a process that may have to wait for a CPU.
constexpr unsigned kQueueLength = 4000;

// "ts0 17": the interface that is ours, whatever key it has.
struct Record {
  std::string interface;
  uint64_t index = 0;
};

constexpr std::string_view kRecordPrefix = "tunnel-";
constexpr std::string_view kLogSuffix = ".log";
std::string record_path(const TunnelOptions& options) {
  return fmt::format("{}/{}{}", options.run_dir, kRecordPrefix, options.interface);
}
std::string log_path(const TunnelOptions& options) { return record_path(options) + std::string(kLogSuffix); }

std::optional<Record> read_record(const std::string& path) {
  auto text = sys::read_file(path, 256);
  if (!text) return std::nullopt;
  auto words = split(trim(*text), ' ');
  if (words.size() != 2) return std::nullopt;
  auto index = parse_u64(words[1], "interface");
  if (!index) return std::nullopt;
  return Record{words[0], *index};
}

// Or gone, with its socket left.
bool is_ours(Netlink& netlink, const Record& record) {
  auto link = find_tunnel_link(netlink, record.interface);
  return link ? link->index == record.index : link.error().code() == Errc::kNotFound;
}

// wireguard-go takes a port that somebody has for a reason to be silent.
Result<> check_port_free(uint16_t port) {
  Fd socket(::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return fail_errno(errno, "make a socket for UDP port {}", port);
  sockaddr_in6 any = {};
  any.sin6_family = AF_INET6;
  any.sin6_port = htons(port);
  if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&any), sizeof any) == 0) return {};
  auto error = fail_errno(errno, "take UDP port {}", port);
  return std::unexpected(std::move(error).error().with_remedy(
      "another program has it (ss -lunp shows which): end that, or change tunnel.port in the configuration"));
}

// The smaller one of the way that is used and the one that may be.
unsigned wanted_mtu(Netlink& netlink, const WgState& now, const WantedState& wanted) {
  std::set<IpAddress> hosts;
  for (const auto& peer : wanted.peers) {
    if (peer.endpoint) hosts.insert(peer.endpoint->address);
    auto there = std::ranges::find(now.peers, peer.key, &WgPeer::key);
    if (there != now.peers.end() && there->endpoint) hosts.insert(there->endpoint->address);
  }
  std::optional<unsigned> least;
  for (const auto& host : hosts) {
    auto outer = netlink.path_mtu(host);
    unsigned overhead = host.is_v4() ? kOverIpv4 : kOverIpv6;
    // One that no way leads to now does not count.
    if (outer && *outer > overhead) least = std::min(least.value_or(kMostMtu), *outer - overhead);
  }
  return std::clamp(least.value_or(kUsualMtu), kLeastMtu, kMostMtu);
}

}  // namespace

Result<> Tunnel::set_peer(const TunnelPeer& peer) {
  MutexLock turn(changing_);
  {
    MutexLock lock(mu_);
    peer_ = peer;
  }
  return apply();
}

Result<size_t> Tunnel::hurry_peer() {
  MutexLock turn(changing_);
  TS_TRY_ASSIGN(Netlink netlink, Netlink::open());
  TS_TRY_ASSIGN(TunnelLink link, find_tunnel_link(netlink, options_.interface));
  if (link.backend != TunnelBackend::kWireguardGo) return 0;
  TS_TRY_ASSIGN(WgState now, read_wg(options_.interface));
  auto change = begin_again(now, wanted_state());
  if (!change.empty()) TS_TRY(write_wg(options_.interface, change, key_, options_.port));
  return change.put.size();
}

Result<TunnelStatus> Tunnel::bring_up() {
  TS_TRY(check_wg());
  TS_TRY(sys::make_dirs(options_.run_dir));
  TS_TRY_ASSIGN(Netlink netlink, Netlink::open());
  TS_TRY_ASSIGN(TunnelLink link, find_or_make(netlink));
  TS_TRY_ASSIGN(WgState now, read_wg(options_.interface));
  TS_TRY(adopt(now, link.index));
  watch(link);
  TS_TRY(configure(netlink, link, now));
  TS_TRY_ASSIGN(unsigned mtu, netlink.link_mtu(link.index));
  return TunnelStatus{std::string(backend_name(link.backend)), true, mtu};
}

Result<> Tunnel::apply() {
  auto status = bring_up();
  MutexLock lock(mu_);
  if (!status) {
    status_ = {.backend = "none: " + status.error().message()};
    return std::unexpected(std::move(status).error().context(fmt::format("tunnel {}", options_.interface)));
  }
  if (!status_.up)
    TS_LOG_INFO("tunnel interface={} backend={} mtu={}", options_.interface, status->backend, status->mtu);
  status_ = std::move(*status);
  return {};
}

Result<TunnelLink> Tunnel::find_or_make(Netlink& netlink) {
  auto link = find_tunnel_link(netlink, options_.interface);
  if (link || link.error().code() != Errc::kNotFound) return link;
  link = make_tunnel_link(netlink, options_.interface, options_.kernel, log_path(options_));
  if (!link) return link;
  TS_TRY(sys::write_file_atomic(record_path(options_), fmt::format("{} {}\n", options_.interface, link->index)));
  return link;
}

// One that has no key yet was made by us a moment ago, or by a daemon that was killed in between.
Result<> Tunnel::adopt(const WgState& now, unsigned index) const {
  auto record = read_record(record_path(options_));
  bool ours = !now.key || now.key == key_.public_key() ||
              (record && record->interface == options_.interface && record->index == index);
  if (!ours)
    return std::unexpected(
        Error(Errc::kAlreadyExists,
              fmt::format("there is a WireGuard interface {} already, with a key that is not this node's",
                          options_.interface))
            .with_remedy("give the tunnel another name (tunnel.interface in the configuration), or remove that one"));
  if (!record || record->interface != options_.interface || record->index != index)
    TS_TRY(sys::write_file_atomic(record_path(options_), fmt::format("{} {}\n", options_.interface, index)));
  return {};
}

void Tunnel::watch(const TunnelLink& link) {
  MutexLock lock(mu_);
  if (link.backend != TunnelBackend::kWireguardGo || process_.valid()) return;
  if (auto process = find_wireguard_go(options_.interface); process) process_ = std::move(*process);
}

bool Tunnel::notice_end() {
  Fd ended;
  {
    MutexLock lock(mu_);
    pollfd p = {process_.get(), POLLIN, 0};
    if (!process_.valid() || ::poll(&p, 1, 0) <= 0) return false;
    ended = std::move(process_);
    status_ = {.backend = "none: wireguard-go ended"};
  }
  auto code = sys::exit_code_of(ended.get());
  TS_LOG_WARN("tunnel interface={} wireguard-go ended, {}: {}", options_.interface,
              code ? fmt::format("code {}", *code) : "its code is not known", last_words(log_path(options_)));
  return true;
}

WantedState Tunnel::wanted_state() const {
  MutexLock lock(mu_);
  WantedState wanted{.key = key_.public_key(), .port = options_.port};
  if (peer_) wanted.peers.push_back({.key = peer_->key, .endpoint = peer_->endpoint, .allowed = all_addresses()});
  return wanted;
}

Result<> Tunnel::configure(Netlink& netlink, const TunnelLink& link, const WgState& now) {
  auto wanted = wanted_state();
  auto change = difference(now, wanted, ::time(nullptr));
  if (now.port != options_.port) TS_TRY(check_port_free(options_.port));
  if (!change.empty()) TS_TRY(write_wg(options_.interface, change, key_, options_.port));
  // Before anything can come out of it.
  TS_TRY_ASSIGN(bool has_table, has_tunnel_table(options_.interface));
  if (!has_table || !table_made_) TS_TRY(install_tunnel_table(options_.interface));
  table_made_ = true;
  // Otherwise the kernel announces itself with IPv6 messages on it. Both are absent on kernels without IPv6.
  auto ipv6 = fmt::format("/proc/sys/net/ipv6/conf/{}/", options_.interface);
  (void)sys::write_control(ipv6 + "addr_gen_mode", "1");
  (void)sys::write_control(ipv6 + "disable_ipv6", "0");
  TS_TRY(netlink.set_link_up(link.index, wanted_mtu(netlink, now, wanted), kQueueLength));
  auto addressed = netlink.put_address(link.index, address());
  if (!addressed)
    return std::unexpected(std::move(addressed).error().with_remedy(
        "the tunnel's own addresses are IPv6: the kernel must have it, also where the network has none"));
  TS_TRY(allow_any_source(netlink, options_.interface));
  for (const auto& peer : wanted.peers)
    TS_TRY(netlink.put_prefix_route(peer.key.address(), peer.key.address().bits(), link.index));
  return {};
}

Result<> take_tunnel_down(const TunnelOptions& options) {
  TS_TRY_ASSIGN(Netlink netlink, Netlink::open());
  auto record = read_record(record_path(options));
  if (record && is_ours(netlink, *record))
    TS_TRY_CTX(remove_tunnel_link(netlink, record->interface), "take the tunnel down");
  TS_TRY(remove_tunnel_table(options.interface));
  for (const auto& path : {record_path(options), log_path(options)}) (void)::unlink(path.c_str());
  return {};
}

std::vector<std::string> recorded_tunnels(const std::string& run_dir) {
  std::vector<std::string> interfaces;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(run_dir, error)) {
    auto name = entry.path().filename().string();
    if (name.starts_with(kRecordPrefix) && !name.ends_with(kLogSuffix))
      interfaces.push_back(name.substr(kRecordPrefix.size()));
  }
  return interfaces;
}

TunnelStatus Tunnel::status() const {
  MutexLock lock(mu_);
  return status_;
}

Result<std::pair<std::string, TunnelPeerStatus>> Tunnel::peer() const {
  std::optional<TunnelPeer> known;
  {
    MutexLock lock(mu_);
    known = peer_;
  }
  TS_TRY_ASSIGN(WgState now, read_wg(options_.interface));
  auto found = known ? std::ranges::find(now.peers, known->key, &WgPeer::key) : now.peers.end();
  if (found == now.peers.end()) return fail(Errc::kNotFound, "{} has no peer yet", options_.interface);
  TunnelPeerStatus status{.received_bytes = found->received_bytes, .sent_bytes = found->sent_bytes};
  if (found->handshake_unix_s > 0)
    status.handshake_age = std::chrono::seconds(std::max<int64_t>(0, ::time(nullptr) - found->handshake_unix_s));
  return std::pair(known->name, status);
}

Result<std::chrono::microseconds> Tunnel::ping_peer(Deadline deadline, const Cancel& cancel) const {
  std::optional<IpAddress> to;
  {
    MutexLock lock(mu_);
    if (peer_) to = peer_->key.address();
  }
  if (!to) return fail(Errc::kNotFound, "{} has no peer yet", options_.interface);
  return ping(address(), *to, deadline, cancel);
}

}  // namespace transship::network
