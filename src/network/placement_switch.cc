// The moment at which a container's packets take another way: as little as has to be, as fast as it goes.
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/icmp6.h>
#include <netinet/if_ether.h>
#include <netinet/ip6.h>
#include <netpacket/packet.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <array>
#include <cstring>
#include <span>

#include "network/netlink.h"
#include "network/placement.h"

namespace transship::network {
namespace {

// Ethernet frames on one interface.
class FrameSender {
 public:
  static Result<FrameSender> open(const std::string& interface, uint16_t protocol) {
    FrameSender s;
    s.fd_ = Fd(::socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!s.fd_.valid()) return fail_errno(errno, "make a packet socket");
    ifreq r = {};
    (void)interface.copy(r.ifr_name, sizeof r.ifr_name - 1);
    if (::ioctl(s.fd_.get(), SIOCGIFHWADDR, &r) != 0)
      return fail_errno(errno, "read the hardware address of {}", interface);
    if (r.ifr_hwaddr.sa_family != ARPHRD_ETHER)
      return fail(Errc::kInvalidArgument, "{} is no Ethernet interface", interface);
    std::memcpy(s.own_.data(), r.ifr_hwaddr.sa_data, s.own_.size());
    s.to_.sll_family = AF_PACKET;
    s.to_.sll_protocol = htons(protocol);
    s.to_.sll_ifindex = static_cast<int>(::if_nametoindex(interface.c_str()));
    s.to_.sll_halen = ETH_ALEN;
    return s;
  }
  const std::array<uint8_t, ETH_ALEN>& own() const { return own_; }
  Result<> send(std::span<const std::byte> payload, const std::array<uint8_t, ETH_ALEN>& to) {
    std::memcpy(to_.sll_addr, to.data(), to.size());
    if (::sendto(fd_.get(), payload.data(), payload.size(), 0, reinterpret_cast<const sockaddr*>(&to_), sizeof to_) < 0)
      return fail_errno(errno, "send to all neighbours");
    return {};
  }

 private:
  Fd fd_;
  std::array<uint8_t, ETH_ALEN> own_ = {};
  sockaddr_ll to_ = {};
};

// RFC 5227: a request for the address by itself. Who knows the address takes the sender's hardware address for it.
Result<> announce_v4(const std::string& interface, const IpAddress& address) {
  TS_TRY_ASSIGN(auto sender, FrameSender::open(interface, ETH_P_ARP));
  ether_arp arp = {};
  arp.ea_hdr.ar_hrd = htons(ARPHRD_ETHER);
  arp.ea_hdr.ar_pro = htons(ETH_P_IP);
  arp.ea_hdr.ar_hln = ETH_ALEN;
  arp.ea_hdr.ar_pln = 4;
  arp.ea_hdr.ar_op = htons(ARPOP_REQUEST);
  std::memcpy(arp.arp_sha, sender.own().data(), ETH_ALEN);
  std::memcpy(arp.arp_spa, address.data(), 4);
  std::memcpy(arp.arp_tpa, address.data(), 4);
  return sender.send(std::as_bytes(std::span(&arp, 1)), {0xff, 0xff, 0xff, 0xff, 0xff, 0xff});
}

struct Advertisement {
  ip6_hdr ip;
  nd_neighbor_advert advert;
  nd_opt_hdr option;
  std::array<uint8_t, ETH_ALEN> link;
};
static_assert(sizeof(Advertisement) == 40 + 24 + 8);

// RFC 4443 2.3: over a pseudo header and the message.
uint16_t checksum(const Advertisement& a) {
  uint32_t sum = IPPROTO_ICMPV6 + sizeof a - sizeof a.ip;
  auto add = [&sum](const void* data, size_t bytes) {
    const auto* at = static_cast<const uint8_t*>(data);
    for (size_t i = 0; i < bytes; i += 2) sum += static_cast<uint32_t>(at[i] << 8 | at[i + 1]);
  };
  add(&a.ip.ip6_src, 32);
  add(&a.advert, sizeof a - sizeof a.ip);
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return htons(static_cast<uint16_t>(~sum));
}

// RFC 4861 7.2.6: unsolicited, overriding, to all nodes.
Result<> announce_v6(const std::string& interface, const IpAddress& address) {
  TS_TRY_ASSIGN(auto sender, FrameSender::open(interface, ETH_P_IPV6));
  Advertisement a = {};
  a.ip.ip6_vfc = 6 << 4;
  a.ip.ip6_plen = htons(sizeof a - sizeof a.ip);
  a.ip.ip6_nxt = IPPROTO_ICMPV6;
  a.ip.ip6_hlim = 255;
  std::memcpy(&a.ip.ip6_src, address.data(), 16);
  a.ip.ip6_dst.s6_addr[0] = 0xff;
  a.ip.ip6_dst.s6_addr[1] = 0x02;
  a.ip.ip6_dst.s6_addr[15] = 0x01;
  a.advert.nd_na_type = ND_NEIGHBOR_ADVERT;
  a.advert.nd_na_flags_reserved = ND_NA_FLAG_OVERRIDE;
  std::memcpy(&a.advert.nd_na_target, address.data(), 16);
  a.option.nd_opt_type = ND_OPT_TARGET_LINKADDR;
  a.option.nd_opt_len = 1;
  a.link = sender.own();
  a.advert.nd_na_cksum = checksum(a);
  return sender.send(std::as_bytes(std::span(&a, 1)), {0x33, 0x33, 0, 0, 0, 1});
}

}  // namespace

Result<> announce_neighbour(const std::string& interface, const IpAddress& address) {
  auto done = address.is_v4() ? announce_v4(interface, address) : announce_v6(interface, address);
  if (done) return {};
  return std::unexpected(
      std::move(done).error().context(fmt::format("tell the neighbours on {} where {} is", interface, address.text())));
}

Result<> remove_ways(Netlink& netlink, const IpAddress& address) {
  // Without a metric it is the first of them that goes; there are two where the host has a route of its own.
  for (int i = 0; i < 2; ++i) TS_TRY(netlink.remove_route({address, 0, {}, 0, kPlacementProtocol}));
  return {};
}

Result<> lead_away(const std::vector<IpAddress>& addresses, const std::string& tunnel, const std::string& bridge) {
  TS_TRY_ASSIGN(Netlink netlink, Netlink::open());
  TS_TRY_ASSIGN(unsigned way, netlink.link_index(tunnel));
  unsigned network = ::if_nametoindex(bridge.c_str());  // 0: went with the last container of it
  for (const auto& a : addresses) {
    TS_TRY(netlink.put_route({a, way, {}, kPlacementMetric, kPlacementProtocol}));
    if (network != 0) TS_TRY(netlink.put_answer(network, a, kPlacementProtocol));
  }
  for (const auto& a : addresses)
    if (network != 0) TS_TRY(announce_neighbour(bridge, a));
  return {};
}

Result<> lead_home(const std::vector<IpAddress>& addresses, const std::string& bridge) {
  TS_TRY_ASSIGN(Netlink netlink, Netlink::open());
  unsigned network = ::if_nametoindex(bridge.c_str());
  for (const auto& a : addresses) {
    TS_TRY(remove_ways(netlink, a));
    if (network != 0) TS_TRY(netlink.remove_answer(network, a));
  }
  return {};
}

}  // namespace transship::network
