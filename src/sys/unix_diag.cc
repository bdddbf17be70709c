#include "sys/unix_diag.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cstring>
#include <vector>

#include "base/cancel.h"
#include "base/fd.h"
#include "base/thread.h"

namespace transship::sys {

namespace {

using Sockets = std::map<uint64_t, UnixSocket>;

bool same_file(const std::string& a, const std::string& b) {
  struct stat sa{};
  struct stat sb{};
  return ::stat(a.c_str(), &sa) == 0 && ::stat(b.c_str(), &sb) == 0 && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

Result<> send_request(int fd) {
  struct {
    nlmsghdr header;
    unix_diag_req request;
  } message{};
  message.header.nlmsg_len = sizeof message;
  message.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  message.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  message.request.sdiag_family = AF_UNIX;
  message.request.udiag_states = ~0U;
  message.request.udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_PEER;
  ssize_t n = retry_eintr([&] { return ::send(fd, &message, sizeof message, 0); });
  if (n < 0) return fail_errno(errno, "ask the kernel for its UNIX sockets");
  return {};
}

std::string socket_name(const char* data, size_t size) {
  if (size == 0) return {};
  std::string name(data, size);
  if (name[0] == '\0') name[0] = '@';
  return name.substr(0, name.find('\0'));
}

void add_socket(const nlmsghdr* header, Sockets& sockets) {
  if (header->nlmsg_len < NLMSG_LENGTH(sizeof(unix_diag_msg))) return;
  unix_diag_msg message{};
  std::memcpy(&message, NLMSG_DATA(header), sizeof message);
  UnixSocket& s = sockets[message.udiag_ino];
  size_t left = header->nlmsg_len - NLMSG_LENGTH(sizeof message);
  const char* at = static_cast<const char*>(NLMSG_DATA(header)) + NLMSG_ALIGN(sizeof message);
  while (left >= sizeof(rtattr)) {
    rtattr attribute{};
    std::memcpy(&attribute, at, sizeof attribute);
    if (attribute.rta_len < sizeof attribute || attribute.rta_len > left) return;
    size_t size = attribute.rta_len - RTA_LENGTH(0);
    const char* data = at + RTA_LENGTH(0);
    uint32_t peer = 0;
    if (attribute.rta_type == UNIX_DIAG_PEER && size >= sizeof peer) {
      std::memcpy(&peer, data, sizeof peer);
      s.peer_inode = peer;
    }
    if (attribute.rta_type == UNIX_DIAG_NAME) s.name = socket_name(data, size);
    size_t step = std::min<size_t>(RTA_ALIGN(attribute.rta_len), left);
    at += step;
    left -= step;
  }
}

// true: that was the last part.
Result<bool> take_part(char* data, size_t size, Sockets& sockets) {
  auto left = static_cast<unsigned>(size);
  for (auto* header = reinterpret_cast<nlmsghdr*>(data); NLMSG_OK(header, left); header = NLMSG_NEXT(header, left)) {
    if (header->nlmsg_type == NLMSG_DONE) return true;
    if (header->nlmsg_type == NLMSG_ERROR) {
      nlmsgerr error{};
      if (header->nlmsg_len >= NLMSG_LENGTH(sizeof error)) std::memcpy(&error, NLMSG_DATA(header), sizeof error);
      return fail_errno(-error.error, "list UNIX sockets by sock_diag");
    }
    if (header->nlmsg_type == SOCK_DIAG_BY_FAMILY) add_socket(header, sockets);
  }
  return false;
}

Result<Sockets> dump_here() {
  Fd fd(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!fd.valid()) return fail_errno(errno, "open a sock_diag socket");
  timeval limit{2, 0};
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) != 0)
    return fail_errno(errno, "set a time limit on a sock_diag socket");
  TS_TRY(send_request(fd.get()));
  Sockets sockets;
  auto deadline = Deadline::in(milliseconds(2'000));
  std::vector<char> buffer(65536);
  while (!deadline.passed()) {
    ssize_t n = retry_eintr([&] { return ::recv(fd.get(), buffer.data(), buffer.size(), 0); });
    if (n < 0) return fail_errno(errno, "receive the list of UNIX sockets");
    TS_TRY_ASSIGN(bool last, take_part(buffer.data(), static_cast<size_t>(n), sockets));
    if (last) return sockets;
  }
  return fail(Errc::kTimeout, "list UNIX sockets by sock_diag: not complete after 2 s");
}

}  // namespace

Result<Sockets> unix_sockets(const std::string& net_namespace) {
  if (same_file(net_namespace, "/proc/self/ns/net")) return dump_here();
  TS_TRY_ASSIGN(Fd ns, open_file(net_namespace, O_RDONLY));
  Result<Sockets> result = fail(Errc::kInternal, "not run");
  {
    // A namespace belongs to a thread: this one enters it, and ends.
    Thread inside("unix-diag", [&] {
      if (::setns(ns.get(), CLONE_NEWNET) != 0) {
        result = fail_errno(errno, "enter the network namespace {}", net_namespace);
        return;
      }
      result = dump_here();
    });
  }
  return result;
}

}  // namespace transship::sys
