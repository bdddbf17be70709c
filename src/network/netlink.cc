#include "network/netlink.h"

#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace transship::network {
namespace {

// One request: a netlink header, the family's header, attributes.
template <class Header>
class Request {
 public:
  Request(uint16_t type, uint16_t flags, const Header& header) : bytes_(NLMSG_SPACE(sizeof(Header))) {
    nlmsghdr h = {};
    h.nlmsg_type = type;
    h.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
    std::memcpy(bytes_.data(), &h, sizeof h);
    std::memcpy(bytes_.data() + NLMSG_HDRLEN, &header, sizeof header);
  }
  void add(uint16_t type, const void* data, size_t size) {
    rtattr a = {};
    a.rta_type = type;
    a.rta_len = static_cast<uint16_t>(RTA_LENGTH(size));
    size_t at = bytes_.size();
    bytes_.resize(at + RTA_SPACE(size));
    std::memcpy(bytes_.data() + at, &a, sizeof a);
    if (size > 0) std::memcpy(bytes_.data() + at + RTA_LENGTH(0), data, size);
  }
  // What add() appends until close() is inside of it.
  size_t open(uint16_t type) {
    size_t at = bytes_.size();
    add(static_cast<uint16_t>(type | NLA_F_NESTED), nullptr, 0);
    return at;
  }
  void close(size_t at) {
    auto length = static_cast<uint16_t>(bytes_.size() - at);
    std::memcpy(bytes_.data() + at, &length, sizeof length);
  }
  void add_text(uint16_t type, const std::string& text) { add(type, text.c_str(), text.size() + 1); }
  void add_u32(uint16_t type, uint32_t value) { add(type, &value, sizeof value); }
  void add_address(uint16_t type, const IpAddress& a) { add(type, a.data(), a.size()); }
  std::span<uint8_t> finished() {
    auto length = static_cast<uint32_t>(bytes_.size());
    std::memcpy(bytes_.data() + offsetof(nlmsghdr, nlmsg_len), &length, sizeof length);
    return bytes_;
  }

 private:
  std::vector<uint8_t> bytes_;
};

Request<rtmsg> route_request(uint16_t type, uint16_t flags, const HostRoute& route) {
  rtmsg m = {};
  m.rtm_family = route.to.family();
  m.rtm_dst_len = static_cast<unsigned char>(route.to.bits());
  m.rtm_table = RT_TABLE_MAIN;
  m.rtm_protocol = route.protocol;
  m.rtm_type = route.unreachable ? RTN_UNREACHABLE : RTN_UNICAST;
  m.rtm_scope = route.gateway || route.unreachable || !route.to.is_v4() ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
  Request<rtmsg> r(type, flags, m);
  r.add_address(RTA_DST, route.to);
  if (route.interface != 0) r.add_u32(RTA_OIF, route.interface);
  if (route.gateway) r.add_address(RTA_GATEWAY, *route.gateway);
  if (route.metric != 0) r.add_u32(RTA_PRIORITY, route.metric);
  return r;
}

std::string describe(const HostRoute& r) {
  if (r.unreachable) return fmt::format("route to {} as unreachable", r.to.text());
  return fmt::format("route to {} through interface {}", r.to.text(), r.interface);
}

// Attributes of an answer; nothing is read beyond `bytes`.
template <class F>
void each_attribute(std::span<const uint8_t> bytes, F&& f) {
  while (bytes.size() >= sizeof(rtattr)) {
    rtattr a;
    std::memcpy(&a, bytes.data(), sizeof a);
    if (a.rta_len < sizeof a || a.rta_len > bytes.size()) return;
    f(a.rta_type, bytes.subspan(RTA_LENGTH(0), a.rta_len - RTA_LENGTH(0)));
    size_t step = RTA_ALIGN(a.rta_len);
    if (step >= bytes.size()) return;
    bytes = bytes.subspan(step);
  }
}

Result<IpAddress> address_of(std::span<const uint8_t> bytes) {
  if (bytes.size() == 4) return IpAddress::v4({bytes[0], bytes[1], bytes[2], bytes[3]});
  if (bytes.size() != 16) return fail(Errc::kUnavailable, "the kernel gave an address of {} bytes", bytes.size());
  std::array<uint8_t, 16> v6;
  std::memcpy(v6.data(), bytes.data(), v6.size());
  return IpAddress::v6(v6);
}

std::string text_of(std::span<const uint8_t> bytes) {
  std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return text.c_str();  // cut at the terminating zero
}

uint32_t u32_of(std::span<const uint8_t> bytes) {
  uint32_t v = 0;
  if (bytes.size() >= sizeof v) std::memcpy(&v, bytes.data(), sizeof v);
  return v;
}

}  // namespace

Result<Netlink> Netlink::open() {
  Fd s(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!s.valid()) return fail_errno(errno, "open a netlink socket");
  timeval limit = {.tv_sec = 5, .tv_usec = 0};
  (void)::setsockopt(s.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  return Netlink(std::move(s));
}

Result<std::vector<uint8_t>> Netlink::ask(std::span<uint8_t> message, std::string_view what) {
  uint32_t sequence = ++sequence_;
  std::memcpy(message.data() + offsetof(nlmsghdr, nlmsg_seq), &sequence, sizeof sequence);
  sockaddr_nl kernel = {};
  kernel.nl_family = AF_NETLINK;
  if (::sendto(socket_.get(), message.data(), message.size(), 0, reinterpret_cast<sockaddr*>(&kernel), sizeof kernel) <
      0)
    return fail_errno(errno, "{}", what);
  std::vector<uint8_t> answer(32 << 10);
  while (true) {
    ssize_t n = retry_eintr([&] { return ::recv(socket_.get(), answer.data(), answer.size(), 0); });
    if (n < 0 && errno == EAGAIN) return fail(Errc::kTimeout, "{}: the kernel did not answer in 5 s", what);
    if (n < 0) return fail_errno(errno, "{}", what);
    nlmsghdr h;
    if (static_cast<size_t>(n) < sizeof h) continue;
    std::memcpy(&h, answer.data(), sizeof h);
    if (h.nlmsg_seq != sequence || h.nlmsg_len > static_cast<size_t>(n)) continue;  // answer to a call that timed out
    if (h.nlmsg_type != NLMSG_ERROR) {
      answer.resize(h.nlmsg_len);
      return answer;
    }
    int error = 0;
    std::memcpy(&error, answer.data() + NLMSG_HDRLEN, sizeof error);
    if (error != 0) return fail_errno(-error, "{}", what);
    return std::vector<uint8_t>();
  }
}

Result<unsigned> Netlink::link_index(const std::string& name) {
  unsigned index = ::if_nametoindex(name.c_str());
  if (index == 0) return fail_errno(errno, "find network interface {}", name);
  return index;
}

Result<unsigned> Netlink::link_mtu(unsigned interface) {
  ifinfomsg m = {};
  m.ifi_index = static_cast<int>(interface);
  Request<ifinfomsg> r(RTM_GETLINK, 0, m);
  TS_TRY_ASSIGN(auto answer, ask(r.finished(), fmt::format("read the MTU of interface {}", interface)));
  unsigned mtu = 0;
  if (answer.size() >= NLMSG_SPACE(sizeof m)) {
    each_attribute(std::span(answer).subspan(NLMSG_SPACE(sizeof m)), [&](uint16_t type, std::span<const uint8_t> v) {
      if (type == IFLA_MTU) mtu = u32_of(v);
    });
  }
  if (mtu == 0) return fail(Errc::kUnavailable, "the kernel gave no MTU for interface {}", interface);
  return mtu;
}

Result<uint64_t> Netlink::link_taken(unsigned interface) {
  ifinfomsg m = {};
  m.ifi_index = static_cast<int>(interface);
  Request<ifinfomsg> r(RTM_GETLINK, 0, m);
  TS_TRY_ASSIGN(auto answer, ask(r.finished(), fmt::format("read the counters of interface {}", interface)));
  std::optional<uint64_t> taken;
  if (answer.size() >= NLMSG_SPACE(sizeof m)) {
    each_attribute(std::span(answer).subspan(NLMSG_SPACE(sizeof m)), [&](uint16_t type, std::span<const uint8_t> v) {
      rtnl_link_stats64 stats = {};
      if (type != IFLA_STATS64 || v.size() < offsetof(rtnl_link_stats64, multicast)) return;
      std::memcpy(&stats, v.data(), std::min(v.size(), sizeof stats));
      taken = stats.tx_packets + stats.tx_dropped;
    });
  }
  if (!taken) return fail(Errc::kUnavailable, "the kernel gave no counters of interface {}", interface);
  return *taken;
}

Result<> Netlink::set_link_up(unsigned interface, unsigned mtu, unsigned queue_length) {
  ifinfomsg m = {};
  m.ifi_index = static_cast<int>(interface);
  m.ifi_flags = IFF_UP;
  m.ifi_change = IFF_UP;
  Request<ifinfomsg> r(RTM_NEWLINK, NLM_F_ACK, m);
  r.add_u32(IFLA_MTU, mtu);
  r.add_u32(IFLA_TXQLEN, queue_length);
  TS_TRY(ask(r.finished(), fmt::format("set interface {} up", interface)));
  return {};
}

Result<> Netlink::make_link(const std::string& name, const std::string& kind) {
  Request<ifinfomsg> r(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, ifinfomsg{});
  r.add_text(IFLA_IFNAME, name);
  size_t info = r.open(IFLA_LINKINFO);
  r.add_text(IFLA_INFO_KIND, kind);
  r.close(info);
  TS_TRY(ask(r.finished(), fmt::format("make the interface {} ({})", name, kind)));
  return {};
}

Result<std::string> Netlink::link_kind(unsigned interface) {
  ifinfomsg m = {};
  m.ifi_index = static_cast<int>(interface);
  Request<ifinfomsg> r(RTM_GETLINK, 0, m);
  TS_TRY_ASSIGN(auto answer, ask(r.finished(), fmt::format("read the kind of interface {}", interface)));
  std::string kind;
  if (answer.size() < NLMSG_SPACE(sizeof m)) return kind;
  each_attribute(std::span(answer).subspan(NLMSG_SPACE(sizeof m)), [&](uint16_t type, std::span<const uint8_t> v) {
    if (static_cast<uint16_t>(type & NLA_TYPE_MASK) != IFLA_LINKINFO) return;
    each_attribute(v, [&](uint16_t inner, std::span<const uint8_t> w) {
      if (inner == IFLA_INFO_KIND) kind = text_of(w);
    });
  });
  return kind;
}

Result<> Netlink::remove_link(unsigned interface) {
  ifinfomsg m = {};
  m.ifi_index = static_cast<int>(interface);
  Request<ifinfomsg> r(RTM_DELLINK, NLM_F_ACK, m);
  auto done = ask(r.finished(), fmt::format("remove interface {}", interface));
  if (!done && done.error().sys_errno() != ENODEV) return std::unexpected(std::move(done).error());
  return {};
}

Result<> Netlink::put_address(unsigned interface, const IpAddress& address, bool for_host_only) {
  ifaddrmsg m = {};
  m.ifa_family = address.family();
  m.ifa_prefixlen = static_cast<uint8_t>(address.bits());
  m.ifa_flags = address.is_v4() ? 0 : IFA_F_NODAD;
  m.ifa_scope = for_host_only ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE;
  m.ifa_index = interface;
  Request<ifaddrmsg> r(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, m);
  r.add_address(IFA_LOCAL, address);
  r.add_address(IFA_ADDRESS, address);
  TS_TRY(ask(r.finished(), fmt::format("give interface {} the address {}", interface, address.text())));
  return {};
}

Result<> Netlink::put_prefix_route(const IpAddress& prefix, unsigned bits, unsigned interface) {
  // NB: not the protocol of the host routes, which are all removed when the daemon starts.
  constexpr uint8_t kProtocol = HostRoute::kProtocol + 1;
  rtmsg m = {};
  m.rtm_family = prefix.family();
  m.rtm_dst_len = static_cast<unsigned char>(bits);
  m.rtm_table = RT_TABLE_MAIN;
  m.rtm_protocol = kProtocol;
  m.rtm_type = RTN_UNICAST;
  m.rtm_scope = prefix.is_v4() ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE;
  Request<rtmsg> r(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, m);
  r.add_address(RTA_DST, prefix);
  r.add_u32(RTA_OIF, interface);
  TS_TRY(ask(r.finished(), fmt::format("set the route to {}/{}", prefix.text(), bits)));
  return {};
}

Result<unsigned> Netlink::path_mtu(const IpAddress& to) {
  TS_TRY_ASSIGN(RouteAnswer route, route_to(to));
  TS_TRY_ASSIGN(unsigned link, link_mtu(route.interface));
  return route.mtu == 0 ? link : std::min(route.mtu, link);
}

Result<> Netlink::put_route(const HostRoute& route) {
  auto r = route_request(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, route);
  TS_TRY(ask(r.finished(), "set the " + describe(route)));
  return {};
}

Result<> Netlink::put_route_first(const HostRoute& route) {
  // Without "replace" and without "append" the kernel puts an IPv4 route in front of its equals.
  int replace = route.to.is_v4() ? 0 : NLM_F_REPLACE;
  auto r = route_request(RTM_NEWROUTE, static_cast<uint16_t>(NLM_F_ACK | NLM_F_CREATE | replace), route);
  auto done = ask(r.finished(), "put first the " + describe(route));
  if (!done && done.error().sys_errno() != EEXIST) return std::unexpected(std::move(done).error());
  return {};
}

Result<bool> Netlink::has_host_route(const IpAddress& to) {
  rtmsg m = {};
  m.rtm_family = to.family();
  m.rtm_dst_len = static_cast<unsigned char>(to.bits());
  m.rtm_flags = RTM_F_FIB_MATCH;
  Request<rtmsg> r(RTM_GETROUTE, 0, m);
  r.add_address(RTA_DST, to);
  TS_TRY_ASSIGN(auto answer, ask(r.finished(), fmt::format("find the route to {}", to.text())));
  if (answer.size() < NLMSG_SPACE(sizeof m)) return fail(Errc::kUnavailable, "the kernel's answer is empty");
  std::memcpy(&m, answer.data() + NLMSG_HDRLEN, sizeof m);
  return m.rtm_dst_len == to.bits();
}

Result<> Netlink::remove_route(const HostRoute& route) {
  auto r = route_request(RTM_DELROUTE, NLM_F_ACK, route);
  auto done = ask(r.finished(), "remove the " + describe(route));
  if (!done && done.error().sys_errno() != ESRCH && done.error().sys_errno() != ENODEV)
    return std::unexpected(std::move(done).error());
  return {};
}

namespace {

Request<ndmsg> answer_request(uint16_t type, uint16_t flags, unsigned interface, const IpAddress& address) {
  ndmsg m = {};
  m.ndm_family = address.family();
  m.ndm_ifindex = static_cast<int>(interface);
  m.ndm_flags = NTF_PROXY;
  Request<ndmsg> r(type, flags, m);
  r.add_address(NDA_DST, address);
  return r;
}

}  // namespace

Result<> Netlink::put_answer(unsigned interface, const IpAddress& address, uint8_t protocol) {
  auto r = answer_request(RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, interface, address);
  r.add(NDA_PROTOCOL, &protocol, sizeof protocol);
  TS_TRY(ask(r.finished(), fmt::format("answer for {} on interface {}", address.text(), interface)));
  return {};
}

Result<> Netlink::remove_answer(unsigned interface, const IpAddress& address) {
  auto r = answer_request(RTM_DELNEIGH, NLM_F_ACK, interface, address);
  auto done = ask(r.finished(), fmt::format("answer no more for {} on interface {}", address.text(), interface));
  if (!done && done.error().sys_errno() != ENOENT && done.error().sys_errno() != ENODEV)
    return std::unexpected(std::move(done).error());
  return {};
}

Result<RouteAnswer> Netlink::route_to(const IpAddress& to) {
  rtmsg m = {};
  m.rtm_family = to.family();
  m.rtm_dst_len = static_cast<unsigned char>(to.bits());
  Request<rtmsg> r(RTM_GETROUTE, 0, m);
  r.add_address(RTA_DST, to);
  auto what = fmt::format("find the route to {}", to.text());
  TS_TRY_ASSIGN(auto answer, ask(r.finished(), what));
  if (answer.size() < NLMSG_SPACE(sizeof m)) return fail(Errc::kUnavailable, "{}: the kernel's answer is empty", what);
  std::memcpy(&m, answer.data() + NLMSG_HDRLEN, sizeof m);
  if (m.rtm_type != RTN_UNICAST) return fail(Errc::kUnavailable, "{}: it is not one of another host", what);
  RouteAnswer out;
  Result<> ok;
  each_attribute(std::span(answer).subspan(NLMSG_SPACE(sizeof m)), [&](uint16_t type, std::span<const uint8_t> v) {
    if (type == RTA_OIF) out.interface = u32_of(v);
    if (type == RTA_METRICS) {
      each_attribute(v, [&](uint16_t metric, std::span<const uint8_t> w) {
        if (metric == RTAX_MTU) out.mtu = u32_of(w);
      });
    }
    if (type != RTA_GATEWAY) return;
    auto gateway = address_of(v);
    if (gateway)
      out.gateway = *gateway;
    else
      ok = std::unexpected(gateway.error());
  });
  TS_TRY_CTX(ok, what);
  return out;
}

}  // namespace transship::network
