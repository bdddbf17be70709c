#include "network/raw_sender.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cstring>

namespace transship::network {
namespace {

// With IPPROTO_RAW the kernel takes the IP header from us.
Result<Fd> raw_socket(int family) {
  Fd s(::socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW));
  if (!s.valid()) return fail_errno(errno, "open a raw socket");
  uint32_t mark = RawSender::kHoldMark;
  if (::setsockopt(s.get(), SOL_SOCKET, SO_MARK, &mark, sizeof mark) != 0)
    return fail_errno(errno, "mark a raw socket");
  int buffer = 8 << 20;
  (void)::setsockopt(s.get(), SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer);
  timeval limit = {.tv_sec = 1, .tv_usec = 0};
  (void)::setsockopt(s.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  return s;
}

}  // namespace

Result<RawSender> RawSender::create() {
  TS_TRY_ASSIGN(Fd v4, raw_socket(AF_INET));
  auto v6 = raw_socket(AF_INET6);
  return RawSender(std::move(v4), v6 ? std::move(*v6) : Fd());
}

Result<> RawSender::bind(unsigned interface) {
  int index = static_cast<int>(interface);
  for (const Fd* s : {&v4_, &v6_}) {
    if (s->valid() && ::setsockopt(s->get(), SOL_SOCKET, SO_BINDTOIFINDEX, &index, sizeof index) != 0)
      return fail_errno(errno, "bind a raw socket to interface {}", interface);
  }
  return {};
}

Result<> RawSender::send(std::span<const std::byte> packet, const IpAddress& to) {
  sockaddr_in v4 = {};
  sockaddr_in6 v6 = {};
  v4.sin_family = AF_INET;
  v6.sin6_family = AF_INET6;
  std::memcpy(to.is_v4() ? static_cast<void*>(&v4.sin_addr) : &v6.sin6_addr, to.data(), to.size());
  const Fd& s = to.is_v4() ? v4_ : v6_;
  auto* address = to.is_v4() ? reinterpret_cast<sockaddr*>(&v4) : reinterpret_cast<sockaddr*>(&v6);
  socklen_t length = to.is_v4() ? sizeof v4 : sizeof v6;
  if (retry_eintr([&] { return ::sendto(s.get(), packet.data(), packet.size(), 0, address, length); }) < 0)
    return fail_errno(errno, "send a kept packet to {}", to.text());
  return {};
}

}  // namespace transship::network
