#include "network/hold.h"

#include <net/if.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <deque>
#include <set>

#include "base/log.h"
#include "base/mutex.h"
#include "base/text.h"
#include "base/thread.h"
#include "network/hold_table.h"
#include "network/netlink.h"
#include "network/raw_sender.h"
#include "network/send_window.h"
#include "network/tun.h"
#include "sys/file.h"

namespace transship::network {
namespace {

constexpr unsigned kDeviceQueue = 16'384;   // packets that wait in the device while our thread is not on a CPU
constexpr size_t kPacketCost = 64;          // of keeping one, besides its bytes
constexpr uint32_t kForwardMetric = 7'000;  // worse than the route into the hold, which has none
constexpr milliseconds kFlushLimit(5'000);
constexpr milliseconds kEndLimit(10'000);  // from drop() to refuse()
constexpr milliseconds kStragglers(50);    // packets that were on their way to the device when its route went

Result<> host_forwards(const IpAddress& a) {
  const char* path = a.is_v4() ? "/proc/sys/net/ipv4/ip_forward" : "/proc/sys/net/ipv6/conf/all/forwarding";
  TS_TRY_ASSIGN(auto value, sys::read_file(path, 64));
  if (trim(value) != "0") return {};
  return std::unexpected(
      Error(Errc::kRefused, fmt::format("this host forwards no packets to {} ({} is 0)", a.text(), path))
          .with_remedy(
              fmt::format("sysctl -w {}=1", a.is_v4() ? "net.ipv4.ip_forward" : "net.ipv6.conf.all.forwarding")));
}

// With strict source checks the kernel would drop what the container sends while the route to it leads into the hold.
// Loose for the container's interface as long as that is so; the earlier value comes back. The open file stays that of
// the namespace it was opened in.
class LooseSourceCheck {
 public:
  static Result<LooseSourceCheck> find(unsigned interface) {
    std::array<char, IF_NAMESIZE> name = {};
    if (::if_indextoname(interface, name.data()) == nullptr) return fail_errno(errno, "find interface {}", interface);
    auto path = fmt::format("/proc/sys/net/ipv4/conf/{}/rp_filter", name.data());
    LooseSourceCheck c;
    TS_TRY_ASSIGN(auto own, sys::read_file(path, 64));
    TS_TRY_ASSIGN(auto all, sys::read_file("/proc/sys/net/ipv4/conf/all/rp_filter", 64));
    c.before_ = trim(own);
    if (std::max(trim(all), trim(own)) != "1") return c;
    TS_TRY_ASSIGN(c.file_, open_file(path, O_RDWR));
    return c;
  }
  Result<> loosen() {
    if (!file_.valid() || loose_) return {};
    TS_TRY(set("2"));
    loose_ = true;
    return {};
  }
  void restore() {
    if (!loose_) return;
    if (auto r = set(before_); !r) TS_LOG_WARN("packet hold: {}", r.error().message());
    loose_ = false;
  }

 private:
  Result<> set(const std::string& value) const {
    if (::pwrite(file_.get(), value.data(), value.size(), 0) < 0)
      return fail_errno(errno, "set rp_filter to {}", value);
    return {};
  }
  Fd file_;  // empty where the check is not strict
  std::string before_;
  bool loose_ = false;
};

uint64_t microseconds_since(Clock::time_point t) {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - t).count());
}

// The thread's work: keep, flush in order, then pass on until told to end.
class TunHold final : public PacketHold {
 public:
  TunHold(Tun tun, Netlink netlink, RawSender sender, Fd wake, HoldOptions options)
      : tun_(std::move(tun)),
        netlink_(std::move(netlink)),
        sender_(std::move(sender)),
        wake_(std::move(wake)),
        options_(options) {}

  ~TunHold() override {
    {
      MutexLock lock(mu_);
      stop_ = true;
    }
    wake();
    thread_.join();
  }

  Result<> set_up(const std::vector<IpAddress>& addresses) {
    MutexLock lock(mu_);
    addresses_ = addresses;
    TS_TRY_ASSIGN(tun_index_, netlink_.link_index(tun_.name()));
    unsigned mtu = 65'535;
    for (const auto& a : addresses_) {
      TS_TRY_ASSIGN(RouteAnswer here, netlink_.route_to(a));
      if (here.gateway)
        return fail(Errc::kRefused, "{} is not on this host: it is reached through {}", a.text(), here.gateway->text());
      if (home_ != 0 && home_ != here.interface) return fail(Errc::kRefused, "the addresses are behind two interfaces");
      home_ = here.interface;
      TS_TRY_ASSIGN(bool own_route, netlink_.has_host_route(a));
      if (own_route) with_own_route_.insert(a);
      TS_TRY_ASSIGN(unsigned link_mtu, netlink_.link_mtu(here.interface));
      mtu = std::min(mtu, link_mtu);
    }
    TS_TRY_ASSIGN(source_check_, LooseSourceCheck::find(home_));
    TS_TRY(netlink_.set_link_up(tun_index_, mtu, kDeviceQueue));
    TS_TRY(install_hold_table(tun_.name()));
    thread_ = Thread("packet-hold", [this] { serve(); });
    return {};
  }

  Result<> begin() override {
    MutexLock lock(mu_);
    TS_CHECK(state_ == State::kPrepared, "begin() twice");
    TS_TRY(source_check_.loosen());
    state_ = State::kHolding;
    began_ = Clock::now();
    for (const auto& a : addresses_) {
      if (auto r = netlink_.put_route_first({a, tun_index_, {}, 0}); !r) {
        remove_routes_locked();
        state_ = State::kPrepared;
        return r;
      }
    }
    return {};
  }

  void keep_first(std::vector<std::vector<std::byte>> packets) override {
    MutexLock lock(mu_);
    if (state_ != State::kHolding) return;
    auto at = queue_.begin();
    for (auto& packet : packets) {
      auto to = destination_of(packet);
      if (!to || std::ranges::find(addresses_, *to) == addresses_.end()) continue;
      count_locked(packet.size());
      at = std::next(queue_.insert(at, {*to, std::move(packet)}));
    }
  }

  Result<> deliver_here() override { return deliver(home_, false, {}, kStragglers); }

  Result<> deliver_to(const std::string& destination_host) override {
    TS_TRY_ASSIGN(IpAddress host, IpAddress::parse(destination_host));
    for (const auto& a : addresses_) {
      if (a.family() != host.family())
        return fail(Errc::kInvalidArgument, "packets for {} cannot be sent on to {}: not the same IP version", a.text(),
                    host.text());
    }
    RouteAnswer way;
    {
      MutexLock lock(mu_);
      TS_TRY_ASSIGN(way, netlink_.route_to(host));
    }
    return deliver(way.interface, true, way.gateway.value_or(host), options_.grace);
  }

  Result<> deliver_through(const std::string& interface) override {
    unsigned index = 0;
    {
      MutexLock lock(mu_);
      TS_TRY_ASSIGN(index, netlink_.link_index(interface));
    }
    return deliver(index, true, {}, options_.grace);
  }

  Result<> drop() override {
    MutexLock lock(mu_);
    if (state_ != State::kHolding) return fail(Errc::kRefused, "no packets are held");
    stats_.dropped_packets += queue_.size();
    stats_.held_packets -= queue_.size();
    queue_.clear();
    queued_bytes_ = 0;
    stats_.held_for_us = microseconds_since(began_);
    remove_hold_routes_locked();
    pass_to(kEndLimit);
    return {};
  }

  Result<> refuse() override {
    MutexLock lock(mu_);
    if (state_ != State::kPassing) return fail(Errc::kRefused, "the hold is over");
    forward_.clear();
    for (const auto& a : addresses_) {
      forward_.push_back({.to = a, .metric = kForwardMetric, .unreachable = true});
      TS_TRY(netlink_.put_route(forward_.back()));
    }
    pass_to(options_.grace);
    return {};
  }

  HoldStats stats() const override {
    MutexLock lock(mu_);
    return stats_;
  }

 private:
  enum class State { kPrepared, kHolding, kFlushing, kPassing, kDone };

  // `onwards`: the packets go to another host.
  Result<> deliver(unsigned interface, bool onwards, std::optional<IpAddress> gateway, milliseconds then_for) {
    MutexLock lock(mu_);
    if (state_ != State::kHolding) return fail(Errc::kRefused, "no packets are held");
    if (onwards) {
      for (const auto& a : addresses_) {
        forward_.push_back({a, interface, gateway, kForwardMetric});
        TS_TRY(netlink_.put_route(forward_.back()));
      }
    }
    TS_TRY(sender_.bind(interface));
    auto started = Clock::now();
    out_ = interface;
    window_.begin(taken_by(netlink_, out_), started);
    state_ = State::kFlushing;
    pass_for_ = then_for;
    wake();
    while (state_ == State::kFlushing && changed_.wait_until(mu_, started + kFlushLimit) != std::cv_status::timeout)
      continue;
    stats_.held_for_us = microseconds_since(began_);
    stats_.delivery_us = microseconds_since(started);
    if (state_ == State::kFlushing)
      return fail(Errc::kTimeout, "{} packets are still kept after {} ms", queue_.size(), kFlushLimit.count());
    return {};
  }

  void pass_to(milliseconds end) REQUIRES(mu_) {
    state_ = State::kPassing;
    pass_until_ = Clock::now() + end;
    wake();
  }

  void wake() const {
    uint64_t one = 1;
    (void)!::write(wake_.get(), &one, sizeof one);
  }

  void serve() {
    std::vector<std::byte> buffer(65'536);
    while (true) {
      int wait_ms = prepare_wait();
      if (wait_ms < 0) break;
      pollfd p[2] = {{tun_.fd(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
      (void)::poll(p, 2, wait_ms);
      uint64_t count = 0;
      if (p[1].revents != 0) (void)!::read(wake_.get(), &count, sizeof count);
      take_in(buffer);
      flush();
    }
    MutexLock lock(mu_);
    clean_up_locked();
  }

  // How long to wait for the next event; negative: the end.
  int prepare_wait() {
    MutexLock lock(mu_);
    if (stop_) return -1;
    if (!queue_.empty() && (state_ == State::kFlushing || state_ == State::kPassing)) return 1;
    if (state_ != State::kPassing) return 60'000;
    auto left = std::chrono::ceil<milliseconds>(pass_until_ - Clock::now()).count();
    return left > 0 ? static_cast<int>(left) : -1;
  }

  void take_in(std::vector<std::byte>& buffer) {
    MutexLock lock(mu_);
    while (true) {
      auto n = tun_.read(buffer);
      if (!n || *n == 0) return;
      auto packet = std::span(buffer).first(*n);
      auto to = destination_of(packet);
      if (!to || std::ranges::find(addresses_, *to) == addresses_.end()) continue;
      keep_locked(packet, *to);
    }
  }

  void keep_locked(std::span<const std::byte> packet, const IpAddress& to) REQUIRES(mu_) {
    size_t cost = packet.size() + kPacketCost;
    if (queued_bytes_ + cost > options_.max_bytes) {
      ++stats_.dropped_packets;
      return;
    }
    queue_.push_back({to, std::vector<std::byte>(packet.begin(), packet.end())});
    count_locked(packet.size());
  }

  void count_locked(size_t bytes) REQUIRES(mu_) {
    queued_bytes_ += bytes + kPacketCost;
    ++stats_.held_packets;
    stats_.held_bytes += bytes;
    stats_.max_queued_bytes = std::max<uint64_t>(stats_.max_queued_bytes, queued_bytes_);
  }

  // A batch per millisecond: a tunnel's device drops what does not fit into its queue, and says so to nobody; an
  // application has room for some hundred datagrams. More of a very long queue, so that a full one is sent in some
  // seconds. What arrives meanwhile is taken out of our own device, behind what is kept.
  void flush() {
    constexpr size_t kBatch = 64;
    MutexLock lock(mu_);
    if (state_ != State::kFlushing && state_ != State::kPassing) return;
    if (Clock::now() < next_batch_) return;
    next_batch_ = Clock::now() + milliseconds(1);
    size_t batch = std::max(kBatch, queue_.size() / 1000);
    if (queue_.size() > kBatch) batch = std::min(batch, window_.room(taken_by(netlink_, out_), Clock::now()));
    for (; batch > 0 && !queue_.empty(); --batch) {
      auto& packet = queue_.front();
      window_.sent();
      if (!sender_.send(packet.bytes, packet.to)) ++stats_.failed_packets;
      queued_bytes_ -= packet.bytes.size() + kPacketCost;
      queue_.pop_front();
    }
    if (!queue_.empty() || state_ == State::kPassing) return;
    forward_before_own_routes_locked();
    // From here on new packets go the way of the other route; the few that are on their way into the device follow.
    remove_hold_routes_locked();
    state_ = State::kPassing;
    pass_until_ = Clock::now() + pass_for_;
    changed_.notify_all();
  }

  // A host route of the operator's would win against the forwarding route, which has a worse metric.
  void forward_before_own_routes_locked() REQUIRES(mu_) {
    for (size_t i = 0, n = forward_.size(); i < n; ++i) {
      if (!with_own_route_.contains(forward_[i].to)) continue;
      HostRoute first = forward_[i];
      first.metric = 0;
      if (auto r = netlink_.put_route_first(first); r)
        forward_.push_back(first);
      else
        TS_LOG_WARN("packet hold: {}", r.error().message());
    }
  }

  void remove_hold_routes_locked() REQUIRES(mu_) {
    for (const auto& a : addresses_) {
      if (auto r = netlink_.remove_route({a, tun_index_, {}, 0}); !r)
        TS_LOG_WARN("packet hold: {}", r.error().message());
    }
    source_check_.restore();
  }

  void remove_routes_locked() REQUIRES(mu_) {
    remove_hold_routes_locked();
    for (const auto& route : forward_) {
      if (auto r = netlink_.remove_route(route); !r) TS_LOG_WARN("packet hold: {}", r.error().message());
    }
    forward_.clear();
  }

  void clean_up_locked() REQUIRES(mu_) {
    if (state_ != State::kPrepared) remove_routes_locked();
    if (auto r = remove_hold_table(tun_.name()); !r) TS_LOG_WARN("packet hold: {}", r.error().message());
    {
      Tun gone = std::move(tun_);
    }
    state_ = State::kDone;
    changed_.notify_all();
  }

  struct Packet {
    IpAddress to;
    std::vector<std::byte> bytes;
  };

  mutable Mutex mu_;
  CondVar changed_;
  std::set<IpAddress> with_own_route_ GUARDED_BY(mu_);
  Tun tun_;
  Netlink netlink_ GUARDED_BY(mu_);
  RawSender sender_ GUARDED_BY(mu_);
  Fd wake_;
  LooseSourceCheck source_check_ GUARDED_BY(mu_);
  const HoldOptions options_;
  std::vector<IpAddress> addresses_;
  unsigned tun_index_ = 0;
  unsigned home_ = 0;                 // the interface the container is behind
  unsigned out_ GUARDED_BY(mu_) = 0;  // where kept packets go
  SendWindow window_ GUARDED_BY(mu_);
  State state_ GUARDED_BY(mu_) = State::kPrepared;
  bool stop_ GUARDED_BY(mu_) = false;
  std::deque<Packet> queue_ GUARDED_BY(mu_);
  size_t queued_bytes_ GUARDED_BY(mu_) = 0;
  std::vector<HostRoute> forward_ GUARDED_BY(mu_);
  HoldStats stats_ GUARDED_BY(mu_);
  Clock::time_point began_ GUARDED_BY(mu_), pass_until_ GUARDED_BY(mu_), next_batch_ GUARDED_BY(mu_) = {};
  milliseconds pass_for_ GUARDED_BY(mu_) = milliseconds(0);
  Thread thread_;
};

}  // namespace

Result<std::unique_ptr<PacketHold>> PacketHold::prepare(const std::vector<std::string>& addresses,
                                                        const HoldOptions& options) {
  std::vector<IpAddress> parsed;
  for (const auto& text : addresses) {
    TS_TRY_ASSIGN(IpAddress a, IpAddress::parse(text));
    TS_TRY(host_forwards(a));
    parsed.push_back(a);
  }
  if (parsed.empty()) return fail(Errc::kInvalidArgument, "no address to hold packets for");
  TS_TRY_ASSIGN(Tun tun, Tun::create("tsh"));
  TS_TRY_ASSIGN(Netlink netlink, Netlink::open());
  TS_TRY_ASSIGN(RawSender sender, RawSender::create());
  Fd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake.valid()) return fail_errno(errno, "eventfd");
  auto hold =
      std::make_unique<TunHold>(std::move(tun), std::move(netlink), std::move(sender), std::move(wake), options);
  TS_TRY(hold->set_up(parsed));
  return hold;
}

}  // namespace transship::network
