#include "network/ping.h"

#include <arpa/inet.h>
#include <netinet/icmp6.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

namespace transship::network {
namespace {

using std::chrono::microseconds;

constexpr milliseconds kAgain{250};
// Not sent often enough to come round.
constexpr size_t kMaxAsked = 256;

sockaddr_in6 socket_address(const IpAddress& address) {
  sockaddr_in6 a = {};
  a.sin6_family = AF_INET6;
  std::memcpy(&a.sin6_addr, address.data(), address.size());
  return a;
}

Result<Fd> echo_socket(const IpAddress& from) {
  Fd fd(::socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_ICMPV6));
  if (!fd.valid()) return fail_errno(errno, "open a socket for ICMP");
  icmp6_filter only_replies;
  ICMP6_FILTER_SETBLOCKALL(&only_replies);
  ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &only_replies);
  (void)::setsockopt(fd.get(), IPPROTO_ICMPV6, ICMP6_FILTER, &only_replies, sizeof only_replies);
  auto own = socket_address(from);
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&own), sizeof own) != 0)
    return fail_errno(errno, "ping from {}", from.text());
  return fd;
}

class Pinger {
 public:
  Pinger(int fd, const IpAddress& to) : fd_(fd), to_(socket_address(to)) { (void)!::getrandom(&id_, sizeof id_, 0); }
  void ask() {
    icmp6_hdr echo = {};
    echo.icmp6_type = ICMP6_ECHO_REQUEST;
    echo.icmp6_id = id_;
    echo.icmp6_seq = htons(static_cast<uint16_t>(asked_ % kMaxAsked));
    sent_[asked_++ % kMaxAsked] = Clock::now();
    // The kernel fills in the checksum. Refused while there is no way yet: the next one may pass.
    auto n = ::sendto(fd_, &echo, sizeof echo, 0, reinterpret_cast<const sockaddr*>(&to_), sizeof to_);
    last_error_ = n < 0 ? errno : 0;
  }
  // Nothing: it was not an answer to us.
  std::optional<microseconds> answer() {
    icmp6_hdr echo = {};
    sockaddr_in6 from = {};
    socklen_t size = sizeof from;
    auto n = ::recvfrom(fd_, &echo, sizeof echo, 0, reinterpret_cast<sockaddr*>(&from), &size);
    if (n < static_cast<ssize_t>(sizeof echo) || echo.icmp6_type != ICMP6_ECHO_REPLY || echo.icmp6_id != id_)
      return std::nullopt;
    size_t sequence = ntohs(echo.icmp6_seq);
    if (sequence >= std::min(asked_, kMaxAsked) ||
        std::memcmp(&from.sin6_addr, &to_.sin6_addr, sizeof from.sin6_addr) != 0)
      return std::nullopt;
    return std::chrono::duration_cast<microseconds>(Clock::now() - sent_[sequence]);
  }
  int last_error() const { return last_error_; }

 private:
  int fd_;
  sockaddr_in6 to_;
  uint16_t id_ = 0;
  size_t asked_ = 0;
  int last_error_ = 0;
  std::array<Clock::time_point, kMaxAsked> sent_ = {};
};

}  // namespace

Result<microseconds> ping(const IpAddress& from, const IpAddress& to, Deadline deadline, const Cancel& cancel) {
  TS_TRY_ASSIGN(Fd fd, echo_socket(from));
  Pinger pinger(fd.get(), to);
  while (!deadline.passed()) {
    pinger.ask();
    for (auto turn = Deadline::in(kAgain).sooner(deadline); !turn.passed();) {
      auto readable = wait_readable(fd.get(), cancel, turn, "an answer");
      if (!readable && readable.error().code() != Errc::kTimeout) return std::unexpected(std::move(readable).error());
      if (!readable) break;
      if (auto time = pinger.answer()) return *time;
    }
  }
  return fail(Errc::kTimeout, "ping {}: no answer{}", to.text(),
              pinger.last_error() == 0 ? "" : ": " + errno_text(pinger.last_error()));
}

}  // namespace transship::network
