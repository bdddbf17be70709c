#include "network/unread_datagrams.h"

#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <array>
#include <bit>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <optional>
#include <set>
#include <span>

#include "base/fd.h"
#include "base/text.h"
#include "network/address.h"
#include "network/socket_table.h"
#include "sys/file.h"
#include "sys/process.h"

namespace transship::network {
namespace {

using Bytes = std::vector<std::byte>;

struct Endpoint {
  IpAddress address;
  uint16_t port = 0;
};

constexpr size_t kIp4Header = 20, kIp6Header = 40, kUdpHeader = 8;

// Inodes of the UDP sockets of a namespace in which something waits to be read.
Result<> find_waiting(const std::string& path, std::set<std::string>& inodes) {
  // sl local remote st tx:rx tr:when retrnsmt uid timeout inode ...
  return each_socket(path, 10, [&](const std::vector<std::string>& words) -> Result<> {
    auto colon = words[4].find(':');
    if (colon != std::string::npos && words[4].find_first_not_of('0', colon + 1) != std::string::npos)
      inodes.insert(words[9]);
    return {};
  });
}

// Switched on for a while.
class Option {
 public:
  Option(int socket, int level, int name) : socket_(socket), level_(level), name_(name) {
    socklen_t size = sizeof before_;
    int on = 1;
    set_ = ::getsockopt(socket, level, name, &before_, &size) == 0 && before_ == 0 &&
           ::setsockopt(socket, level, name, &on, sizeof on) == 0;
  }
  ~Option() {
    if (set_) (void)::setsockopt(socket_, level_, name_, &before_, sizeof before_);
  }
  Option(const Option&) = delete;
  Option& operator=(const Option&) = delete;

 private:
  int socket_, level_, name_;
  int before_ = 0;
  bool set_ = false;
};

Endpoint endpoint_of(const sockaddr_storage& a) {
  Endpoint e;
  if (a.ss_family == AF_INET6) {
    const auto& in6 = reinterpret_cast<const sockaddr_in6&>(a);
    e.address = IpAddress::v6(std::bit_cast<std::array<uint8_t, 16>>(in6.sin6_addr));
    e.port = ntohs(in6.sin6_port);
  } else if (a.ss_family == AF_INET) {
    const auto& in4 = reinterpret_cast<const sockaddr_in&>(a);
    e.address = IpAddress::v4(std::bit_cast<std::array<uint8_t, 4>>(in4.sin_addr));
    e.port = ntohs(in4.sin_port);
  }
  return e;
}

struct Control {
  std::optional<IpAddress> to;
  size_t segment = 0;  // with UDP_GRO several datagrams are read at once, each but the last of this size
};

Control control_of(msghdr& m) {
  Control found;
  for (cmsghdr* c = CMSG_FIRSTHDR(&m); c != nullptr; c = CMSG_NXTHDR(&m, c)) {
    if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
      in_pktinfo info = {};
      std::memcpy(&info, CMSG_DATA(c), sizeof info);
      found.to = IpAddress::v4(std::bit_cast<std::array<uint8_t, 4>>(info.ipi_addr));
    } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
      in6_pktinfo info = {};
      std::memcpy(&info, CMSG_DATA(c), sizeof info);
      found.to = IpAddress::v6(std::bit_cast<std::array<uint8_t, 16>>(info.ipi6_addr));
    } else if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
      int size = 0;
      std::memcpy(&size, CMSG_DATA(c), sizeof size);
      found.segment = size > 0 ? static_cast<size_t>(size) : 0;
    }
  }
  return found;
}

bool can_be_sent(const IpAddress& to) {
  return !to.is_loopback() && (to.is_v4() ? to.data()[0] < 224 && to.data()[0] != 0 : to.data()[0] != 0xff);
}

void put16(Bytes& packet, size_t at, size_t value) {
  packet[at] = static_cast<std::byte>(value >> 8U & 0xffU);
  packet[at + 1] = static_cast<std::byte>(value & 0xffU);
}

uint32_t sum_of(std::span<const std::byte> bytes) {
  uint32_t sum = 0;
  for (size_t i = 0; i < bytes.size(); ++i) sum += std::to_integer<uint32_t>(bytes[i]) << (i % 2 == 0 ? 8U : 0U);
  return sum;
}

uint16_t folded(uint32_t sum) {
  while (sum >> 16U != 0) sum = (sum & 0xffffU) + (sum >> 16U);
  return static_cast<uint16_t>(~sum);
}

// RFC 768, 791, 8200.
Bytes packet_of(const Endpoint& from, const Endpoint& to, std::span<const std::byte> data) {
  const bool v4 = to.address.is_v4();
  const size_t header = v4 ? kIp4Header : kIp6Header;
  const size_t length = kUdpHeader + data.size();
  Bytes p(header + length);
  size_t addresses = v4 ? 12 : 8;
  std::memcpy(&p[addresses], from.address.data(), from.address.size());
  std::memcpy(&p[addresses + from.address.size()], to.address.data(), to.address.size());
  put16(p, header, from.port);
  put16(p, header + 2, to.port);
  put16(p, header + 4, length);
  std::ranges::copy(data, p.begin() + static_cast<std::ptrdiff_t>(header + kUdpHeader));
  // Over the addresses, the protocol, the length, and all of the datagram.
  uint32_t sum = sum_of(std::span(p).subspan(addresses)) + IPPROTO_UDP + static_cast<uint32_t>(length);
  uint16_t check = folded(sum);
  put16(p, header + 6, check == 0 ? 0xffff : check);
  if (v4) {
    p[0] = std::byte{0x45};
    put16(p, 2, p.size());
    p[8] = std::byte{64};
    p[9] = std::byte{IPPROTO_UDP};
    put16(p, 10, folded(sum_of(std::span(p).first(kIp4Header))));
  } else {
    p[0] = std::byte{0x60};
    put16(p, 4, length);
    p[6] = std::byte{IPPROTO_UDP};
    p[7] = std::byte{64};
  }
  return p;
}

class Drain {
 public:
  explicit Drain(UnreadDatagrams& out) : out_(out) {}

  Result<> take(int socket) {
    sockaddr_storage own = {};
    socklen_t size = sizeof own;
    if (::getsockname(socket, reinterpret_cast<sockaddr*>(&own), &size) < 0)
      return fail_errno(errno, "the address of a UDP socket");
    const uint16_t port = endpoint_of(own).port;
    Option v4(socket, IPPROTO_IP, IP_PKTINFO);
    Option v6(socket, IPPROTO_IPV6, IPV6_RECVPKTINFO);
    // An error that was reported for an earlier datagram comes first.
    for (int errors = 0; errors < 8;) {
      int error = take_one(socket, port);
      if (error == EAGAIN) return {};
      if (error != 0) ++errors;
    }
    return {};
  }

 private:
  int take_one(int socket, uint16_t port) {
    sockaddr_storage from = {};
    alignas(cmsghdr) std::array<char, 512> control = {};
    iovec part = {buffer_.data(), buffer_.size()};
    msghdr m = {};
    m.msg_name = &from;
    m.msg_namelen = sizeof from;
    m.msg_iov = &part;
    m.msg_iovlen = 1;
    m.msg_control = control.data();
    m.msg_controllen = control.size();
    ssize_t n = retry_eintr([&] { return ::recvmsg(socket, &m, MSG_DONTWAIT); });
    if (n < 0) return errno;
    auto said = control_of(m);
    keep(endpoint_of(from), {said.to.value_or(IpAddress()), port}, said,
         std::span<const std::byte>(buffer_).first(static_cast<size_t>(n)));
    return 0;
  }

  void keep(const Endpoint& from, const Endpoint& to, const Control& said, std::span<const std::byte> data) {
    size_t each = said.segment != 0 ? said.segment : std::max<size_t>(data.size(), 1);
    do {
      auto one = data.first(std::min(each, data.size()));
      data = data.subspan(one.size());
      if (!said.to || !can_be_sent(to.address) || from.address.is_v4() != to.address.is_v4() ||
          bytes_ + one.size() > kMostUnreadBytes) {
        ++out_.lost;
        continue;
      }
      bytes_ += one.size();
      out_.packets.push_back(packet_of(from, to, one));
    } while (!data.empty());
  }

  UnreadDatagrams& out_;
  std::vector<std::byte> buffer_ = std::vector<std::byte>(1U << 16U);
  size_t bytes_ = 0;
};

}  // namespace

Result<> take_unread_datagrams(const std::vector<pid_t>& pids, UnreadDatagrams& out) {
  if (pids.empty()) return {};
  std::set<std::string> waiting;
  for (const char* table : {"udp", "udp6"})
    TS_TRY(find_waiting(fmt::format("/proc/{}/net/{}", pids.front(), table), waiting));
  Drain drain(out);
  for (pid_t pid : pids) {
    if (waiting.empty()) break;
    TS_TRY_ASSIGN(Fd process, sys::pidfd_open(pid));
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", pid), error)) {
      auto target = std::filesystem::read_symlink(entry.path(), error).string();
      if (!target.starts_with("socket:[") || waiting.erase(target.substr(8, target.size() - 9)) == 0) continue;
      int number = std::atoi(entry.path().filename().c_str());
      Fd socket(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), number, 0)));
      if (!socket.valid()) return fail_errno(errno, "get descriptor {} of process {}", number, pid);
      TS_TRY(drain.take(socket.get()));
    }
  }
  return {};
}

}  // namespace transship::network
