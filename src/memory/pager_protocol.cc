#include "memory/pager_protocol.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>

#include "sys/packet.h"

namespace transship::memory {
namespace {

constexpr uint32_t kVersion = 0x54530002;
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

// The cause's errno stays to be seen: EAGAIN is no failure.
std::unexpected<Error> no_word(std::string_view what, const Error& cause) {
  int e = cause.sys_errno();
  return std::unexpected(
      Error(Errc::kUnavailable, fmt::format("{} a message about memory pages: {}", what, errno_text(e))).with_errno(e));
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
  // No ranges: no array either, and memcpy takes no null pointer.
  if (!m.ranges.empty()) std::memcpy(m.ranges.data(), packet.data(), head.ranges * sizeof(PageRange));
  m.text = packet.substr(head.ranges * sizeof(PageRange));
  return m;
}

Result<> send_packet(int socket, std::string_view packet, std::span<const Fd> fds, int flags) {
  TS_CHECK(fds.size() <= kMaxPagerFds);
  std::vector<int> numbers;
  for (const auto& fd : fds) numbers.push_back(fd.get());
  auto sent = sys::send_packet(socket, packet, numbers, flags);
  return sent ? Result<>() : no_word("send", sent.error());
}

Result<PagerMessage> receive_message(int socket, int flags) {
  std::string packet(kMaxPacket, '\0');
  auto got = sys::receive_packet(socket, packet, flags);
  if (!got) return no_word("receive", got.error());
  if (got->bytes == 0) return fail(Errc::kUnavailable, "the other end of the pager's socket has closed");
  packet.resize(got->bytes);
  TS_TRY_ASSIGN(auto message, decode(packet));
  message.fds = std::move(got->fds);
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
