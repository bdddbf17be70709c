#include "sys/packet.h"

#include <sys/socket.h>

#include <array>
#include <cstring>

namespace transship::sys {
namespace {

std::vector<Fd> take_fds(msghdr& header) {
  std::vector<Fd> fds;
  for (auto* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    for (size_t at = 0; at + sizeof(int) <= c->cmsg_len - CMSG_LEN(0); at += sizeof(int)) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(c) + at, sizeof fd);
      fds.emplace_back(fd);
    }
  }
  return fds;
}

}  // namespace

Result<> send_packet(int socket, std::string_view data, std::span<const int> fds, int flags) {
  TS_CHECK(fds.size() <= kMaxPacketFds);
  iovec io{const_cast<char*>(data.data()), data.size()};  // NOLINT: sendmsg does not write there
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMaxPacketFds)> control{};
  msghdr header{};
  header.msg_iov = &io;
  header.msg_iovlen = 1;
  if (!fds.empty()) {
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    auto* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    std::memcpy(CMSG_DATA(c), fds.data(), sizeof(int) * fds.size());
  }
  if (retry_eintr([&] { return ::sendmsg(socket, &header, flags | MSG_NOSIGNAL); }) < 0)
    return fail_errno(errno, "send a packet");
  return {};
}

Result<ReceivedPacket> receive_packet(int socket, std::span<char> buffer, int flags) {
  iovec io{buffer.data(), buffer.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMaxPacketFds)> control{};
  msghdr header{};
  header.msg_iov = &io;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  auto got = retry_eintr([&] { return ::recvmsg(socket, &header, flags | MSG_CMSG_CLOEXEC); });
  if (got < 0) return fail_errno(errno, "receive a packet");
  return ReceivedPacket{static_cast<size_t>(got), take_fds(header), (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0};
}

}  // namespace transship::sys
