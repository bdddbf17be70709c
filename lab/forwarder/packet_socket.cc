#include "forwarder/packet_socket.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>

namespace transship::lab {
namespace {

constexpr size_t kBatch = 32;
// At 10 Gbit/s this is 50 ms: longer than we are ever kept from running.
constexpr int kSocketBuffer = 64 << 20;

Result<> set_option(int fd, int level, int option, int value, const char* what) {
  if (::setsockopt(fd, level, option, &value, sizeof value) != 0)
    return fail_errno(errno, "set {} on a packet socket", what);
  return {};
}

}  // namespace

PacketSocket::PacketSocket(Fd fd, std::string interface)
    : fd_(std::move(fd)), interface_(std::move(interface)), buffer_(kBatch * kMaxFrame) {}

Result<PacketSocket> PacketSocket::open(const std::string& interface) {
  const unsigned index = ::if_nametoindex(interface.c_str());
  if (index == 0) return fail_errno(errno, "find the network interface {}", interface);
  // Protocol 0: nothing arrives until bind() names the interface, so no packet of another one can slip in.
  Fd fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return fail_errno(errno, "open a packet socket");
  TS_TRY(set_option(fd.get(), SOL_PACKET, PACKET_VNET_HDR, 1, "PACKET_VNET_HDR"));
  TS_TRY(set_option(fd.get(), SOL_PACKET, PACKET_IGNORE_OUTGOING, 1, "PACKET_IGNORE_OUTGOING"));
  TS_TRY(set_option(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, kSocketBuffer, "SO_RCVBUFFORCE"));
  TS_TRY(set_option(fd.get(), SOL_SOCKET, SO_SNDBUFFORCE, kSocketBuffer, "SO_SNDBUFFORCE"));
  packet_mreq all{};
  all.mr_ifindex = static_cast<int>(index);
  all.mr_type = PACKET_MR_PROMISC;
  if (::setsockopt(fd.get(), SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all) != 0)
    return fail_errno(errno, "make {} promiscuous", interface);
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = static_cast<int>(index);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return fail_errno(errno, "bind a packet socket to {}", interface);
  return PacketSocket(std::move(fd), interface);
}

Result<> PacketSocket::receive(std::vector<Frame>& out) {
  std::array<OffloadHeader, kBatch> headers;
  std::array<std::array<iovec, 2>, kBatch> parts;
  std::array<mmsghdr, kBatch> messages{};
  for (size_t i = 0; i < kBatch; ++i) {
    parts[i] = {iovec{&headers[i], sizeof headers[i]}, iovec{buffer_.data() + i * kMaxFrame, kMaxFrame}};
    messages[i].msg_hdr.msg_iov = parts[i].data();
    messages[i].msg_hdr.msg_iovlen = parts[i].size();
  }
  const int count = retry_eintr([&] { return ::recvmmsg(fd_.get(), messages.data(), kBatch, MSG_DONTWAIT, nullptr); });
  if (count < 0) {
    // EINVAL: a packet whose offload cannot be written in a virtio header. The kernel has dropped it.
    if (errno == EAGAIN || errno == EINVAL || errno == ENETDOWN) return {};
    return fail_errno(errno, "receive from {}", interface_);
  }
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    if (messages[i].msg_len <= sizeof headers[i]) continue;
    const auto* data = buffer_.data() + i * kMaxFrame;
    const size_t length = std::min<size_t>(messages[i].msg_len - sizeof headers[i], kMaxFrame);
    out.push_back({headers[i], std::vector<std::byte>(data, data + length)});
  }
  return {};
}

bool PacketSocket::send(const Frame& frame) const {
  std::array<iovec, 2> parts = {iovec{const_cast<OffloadHeader*>(&frame.header), sizeof frame.header},
                                iovec{const_cast<std::byte*>(frame.data.data()), frame.data.size()}};
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  return retry_eintr([&] { return ::sendmsg(fd_.get(), &message, MSG_DONTWAIT); }) >= 0;
}

}  // namespace transship::lab
