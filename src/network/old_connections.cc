#include "network/old_connections.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <bit>
#include <filesystem>
#include <set>

#include "base/text.h"
#include "network/address.h"
#include "sys/process.h"

namespace transship::network {
namespace {

constexpr milliseconds kLook{2};
// The kernel's numbers (include/net/tcp_states.h); netinet/tcp.h has them too, and can't be had beside linux/tcp.h.
constexpr int kFinWait1 = 4, kClose = 7, kLastAck = 9, kListen = 10, kClosing = 11;
// Leaves repair mode without the probe that TCP_REPAIR_OFF sends.
constexpr int kRepairOffQuietly = -1;

int state_of(int socket) {
  tcp_info info = {};
  socklen_t size = sizeof info;
  return ::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 ? info.tcpi_state : kClose;
}

bool is_tcp(int socket) {
  int protocol = 0;
  socklen_t size = sizeof protocol;
  return ::getsockopt(socket, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) == 0 && protocol == IPPROTO_TCP;
}

bool is_loopback(const sockaddr_storage& a) {
  if (a.ss_family == AF_INET)
    return IpAddress::v4(std::bit_cast<std::array<uint8_t, 4>>(reinterpret_cast<const sockaddr_in&>(a).sin_addr))
        .is_loopback();
  return a.ss_family == AF_INET6 &&
         IpAddress::v6(std::bit_cast<std::array<uint8_t, 16>>(reinterpret_cast<const sockaddr_in6&>(a).sin6_addr))
             .is_loopback();
}

// Both ends are in the container: both are gone with it.
bool within(int socket) {
  sockaddr_storage here = {}, there = {};
  socklen_t here_size = sizeof here, there_size = sizeof there;
  return ::getsockname(socket, reinterpret_cast<sockaddr*>(&here), &here_size) == 0 &&
         ::getpeername(socket, reinterpret_cast<sockaddr*>(&there), &there_size) == 0 && is_loopback(here) &&
         is_loopback(there);
}

// Every socket of the process once; `seen` has those of others.
Result<std::vector<Fd>> sockets_of(pid_t pid, std::set<std::string>& seen) {
  TS_TRY_ASSIGN(Fd pidfd, sys::pidfd_open(pid));
  std::vector<Fd> sockets;
  std::error_code error;
  auto entries = std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", pid), error);
  for (; !error && entries != end(entries); entries.increment(error)) {
    std::error_code gone;
    auto target = std::filesystem::read_symlink(entries->path(), gone).string();
    if (!target.starts_with("socket:") || !seen.insert(target).second) continue;
    auto number = parse_u64(entries->path().filename().string(), "descriptor");
    if (!number) continue;
    Fd socket(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd.get(), static_cast<int>(*number), 0)));
    if (!socket.valid()) return fail_errno(errno, "get descriptor {} of process {}", *number, pid);
    sockets.push_back(std::move(socket));
  }
  return sockets;
}

// Whoever has acknowledged that nothing more comes.
bool knows(int socket) {
  int state = state_of(socket);
  return state != kFinWait1 && state != kClosing && state != kLastAck;
}

void begin_end(int socket) {
  (void)::setsockopt(socket, IPPROTO_TCP, TCP_REPAIR, &kRepairOffQuietly, sizeof kRepairOffQuietly);
  (void)::shutdown(socket, SHUT_WR);
}

// Also when a frozen task has the socket open still: closing would wait for that.
void reset(int socket) {
  sockaddr nobody = {};
  nobody.sa_family = AF_UNSPEC;
  (void)::connect(socket, &nobody, sizeof nobody);
}

}  // namespace

OldConnections OldConnections::take(const std::vector<pid_t>& pids) {
  OldConnections all;
  std::set<std::string> seen;
  for (pid_t pid : pids) {
    auto sockets = sockets_of(pid, seen);
    if (!sockets) {
      all.missed_ = sockets.error().message();
      continue;
    }
    for (auto& socket : *sockets) {
      if (!is_tcp(socket.get())) continue;
      int state = state_of(socket.get());
      if (state == kListen)
        all.listeners_.push_back(std::move(socket));
      else if (state != kClose && !within(socket.get()))
        all.connections_.push_back(std::move(socket));
    }
  }
  return all;
}

uint32_t OldConnections::end(milliseconds limit) {
  for (const auto& listener : listeners_) (void)::shutdown(listener.get(), SHUT_RD);
  for (const auto& connection : connections_) begin_end(connection.get());
  auto deadline = Deadline::in(limit);
  auto never = Cancel::create();
  auto waiting = [&] { return !std::ranges::all_of(connections_, [](const Fd& c) { return knows(c.get()); }); };
  while (never && waiting() && !deadline.passed()) (void)sleep_for(kLook, *never);
  for (const auto& connection : connections_) reset(connection.get());
  auto count = static_cast<uint32_t>(connections_.size());
  connections_.clear();
  listeners_.clear();
  return count;
}

}  // namespace transship::network
