#include "names/probe.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cstring>

#include "base/fd.h"
#include "base/text.h"

namespace transship::names {
namespace {

constexpr uint16_t kDnsPort = 53;

// RFC 1035: id, "recursion wanted", one question; the name, type A, class IN.
std::string question(const std::string& id, const std::string& name) {
  std::string q = id + std::string("\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00", 10);
  for (const auto& label : split(name, '.')) q += static_cast<char>(label.size()) + label;
  return q + std::string("\x00\x00\x01\x00\x01", 5);
}

Result<Fd> connect_to(const network::IpAddress& server) {
  sockaddr_in6 v6 = {};
  sockaddr_in v4 = {};
  v4.sin_family = AF_INET;
  v6.sin6_family = AF_INET6;
  v4.sin_port = v6.sin6_port = htons(kDnsPort);
  if (server.is_v4())
    std::memcpy(&v4.sin_addr, server.data(), server.size());
  else
    std::memcpy(&v6.sin6_addr, server.data(), server.size());
  const auto* address =
      server.is_v4() ? reinterpret_cast<const sockaddr*>(&v4) : reinterpret_cast<const sockaddr*>(&v6);
  Fd fd(::socket(server.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return fail_errno(errno, "make a socket to ask {}", server.text());
  if (::connect(fd.get(), address, server.is_v4() ? sizeof v4 : sizeof v6) != 0)
    return fail_errno(errno, "ask {}", server.text());
  return fd;
}

}  // namespace

Result<> probe_dns(const network::IpAddress& server, const std::string& name, milliseconds limit) {
  TS_TRY_ASSIGN(Fd fd, connect_to(server));
  std::string id = random_hex(1);  // two bytes, each a hex digit
  auto q = question(id, name);
  if (::send(fd.get(), q.data(), q.size(), MSG_NOSIGNAL) < 0) return fail_errno(errno, "ask {}", server.text());
  pollfd p = {fd.get(), POLLIN, 0};
  if (retry_eintr([&] { return ::poll(&p, 1, static_cast<int>(limit.count())); }) <= 0)
    return fail(Errc::kTimeout, "{} does not answer within {} ms", server.text(), limit.count());
  std::array<char, 512> answer = {};
  auto n = ::recv(fd.get(), answer.data(), answer.size(), MSG_DONTWAIT);
  if (n < 0) return fail_errno(errno, "hear {}", server.text());
  if (n < 12 || std::string_view(answer.data(), 2) != id) return fail(Errc::kPeerProtocol, "that is no answer");
  return {};
}

}  // namespace transship::names
