#include "memory/pager_protocol.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <array>
#include <cstring>

namespace transship::memory {
namespace {

constexpr uint32_t kVersion = 0x54530001;
constexpr size_t kMaxText = 4096;

struct Head {
  uint32_t version;
  uint32_t word;
  uint64_t kind;
  uint64_t id;
  uint64_t number;
  uint32_t ranges;
  uint32_t text;
};
constexpr size_t kMaxPacket = sizeof(Head) + kMaxPagerRanges * sizeof(PageRange) + kMaxText;

Result<sockaddr_un> address_in(int dir, const char* name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  auto path = fmt::format("/proc/self/fd/{}/{}", dir, name);
  if (path.size() >= sizeof address.sun_path)
    return fail(Errc::kInvalidArgument, "the socket name {} is too long", path);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

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

std::string encode(const PagerMessage& m) {
  TS_CHECK(m.ranges.size() <= kMaxPagerRanges);
  auto text = std::string_view(m.text).substr(0, kMaxText);
  Head head{.version = kVersion,
            .word = static_cast<uint32_t>(m.word),
            .kind = static_cast<uint64_t>(m.space.kind),
            .id = m.space.id,
            .number = m.number,
            .ranges = static_cast<uint32_t>(m.ranges.size()),
            .text = static_cast<uint32_t>(text.size())};
  std::string packet(reinterpret_cast<const char*>(&head), sizeof head);
  packet.append(reinterpret_cast<const char*>(m.ranges.data()), m.ranges.size() * sizeof(PageRange));
  packet += text;
  return packet;
}

Result<PagerMessage> decode(std::string_view packet) {
  Head head{};
  if (packet.size() < sizeof head)
    return fail(Errc::kPeerProtocol, "a message of {} bytes is too short", packet.size());
  std::memcpy(&head, packet.data(), sizeof head);
  if (head.version != kVersion)
    return std::unexpected(
        Error(Errc::kPeerProtocol, "transshipd and transship-pager are not of one version")
            .with_remedy("end the moves that are going on before transshipd is replaced by another version"));
  if (head.word > static_cast<uint32_t>(PagerWord::kFinished) || head.kind > 2 || head.ranges > kMaxPagerRanges ||
      head.text > kMaxText || packet.size() != sizeof head + head.ranges * sizeof(PageRange) + head.text)
    return fail(Errc::kPeerProtocol, "a message of kind {} with {} ranges and {} bytes of text is {} bytes long",
                head.word, head.ranges, head.text, packet.size());
  PagerMessage m;
  m.word = static_cast<PagerWord>(head.word);
  m.space = {.kind = static_cast<SpaceKind>(head.kind), .id = head.id};
  m.number = head.number;
  m.ranges.resize(head.ranges);
  packet.remove_prefix(sizeof head);
  std::memcpy(m.ranges.data(), packet.data(), head.ranges * sizeof(PageRange));
  m.text = packet.substr(head.ranges * sizeof(PageRange));
  return m;
}

Result<> send_packet(int socket, std::string_view packet, std::span<const Fd> fds, int flags) {
  TS_CHECK(fds.size() <= kMaxPagerFds);
  iovec io{.iov_base = const_cast<char*>(packet.data()), .iov_len = packet.size()};  // NOLINT: not written to
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMaxPagerFds)> control{};
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
    for (size_t i = 0; i < fds.size(); ++i) {
      int fd = fds[i].get();
      std::memcpy(CMSG_DATA(c) + i * sizeof fd, &fd, sizeof fd);
    }
  }
  if (retry_eintr([&] { return ::sendmsg(socket, &header, flags | MSG_NOSIGNAL); }) >= 0) return {};
  int e = errno;
  return std::unexpected(
      Error(Errc::kUnavailable, fmt::format("send a message about memory pages: {}", errno_text(e))).with_errno(e));
}

Result<PagerMessage> receive_message(int socket, int flags) {
  std::string packet(kMaxPacket, '\0');
  iovec io{.iov_base = packet.data(), .iov_len = packet.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMaxPagerFds)> control{};
  msghdr header{};
  header.msg_iov = &io;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  auto n = retry_eintr([&] { return ::recvmsg(socket, &header, flags | MSG_CMSG_CLOEXEC); });
  int e = errno;
  if (n < 0)
    return std::unexpected(
        Error(Errc::kUnavailable, fmt::format("receive a message about memory pages: {}", errno_text(e)))
            .with_errno(e));
  auto fds = take_fds(header);
  if (n == 0) return fail(Errc::kUnavailable, "the other end of the pager's socket has closed");
  packet.resize(static_cast<size_t>(n));
  TS_TRY_ASSIGN(auto message, decode(packet));
  message.fds = std::move(fds);
  return message;
}

Result<Fd> listen_in(int dir, const char* name, int type) {
  TS_TRY_ASSIGN(auto address, address_in(dir, name));
  Fd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return fail_errno(errno, "make the socket {}", name);
  (void)::unlinkat(dir, name, 0);
  // The mode of the socket's file is that of the descriptor, less the umask.
  if (::fchmod(fd.get(), 0600) < 0) return fail_errno(errno, "set the mode of the socket {}", name);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
    return fail_errno(errno, "bind the socket {}", name);
  if (::listen(fd.get(), 8) < 0) return fail_errno(errno, "listen at the socket {}", name);
  return fd;
}

Result<Fd> connect_in(int dir, const char* name, int type) {
  TS_TRY_ASSIGN(auto address, address_in(dir, name));
  Fd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return fail_errno(errno, "make a socket for {}", name);
  if (retry_eintr([&] { return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address); }) < 0)
    return fail_errno(errno, "connect to the socket {}", name);
  return fd;
}

}  // namespace transship::memory
