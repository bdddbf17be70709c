// The container's sockets: protocols, TCP connections, UNIX sockets that lead outside.
#include <algorithm>

#include "base/text.h"
#include "sys/file.h"
#include "sys/task_probe.h"
#include "sys/unix_diag.h"

namespace transship::sys {

namespace {

constexpr uint32_t kEstablished = 1;
constexpr uint32_t kSynReceived = 3;
constexpr uint32_t kListening = 10;
constexpr uint32_t kUnconnected = 7;  // of a datagram socket
constexpr size_t kMaxBound = 5;

// Tables of /proc/PID/net that name what a kernel without "system.sockprotoname" (or a recorded tree) cannot say.
constexpr std::pair<const char*, const char*> kTables[] = {{"raw", "RAW"}, {"raw6", "RAWv6"}, {"packet", "PACKET"}};

void note_protocol(TaskProbe& probe, pid_t pid, const std::string& protocol) {
  // UNIX sockets are judged by their peers; TCP and UDP move.
  for (std::string_view fine : {"TCP", "UDP", "UNIX"})
    if (protocol.starts_with(fine)) return;
  Trait trait = Trait::kOtherSocket;
  if (protocol.starts_with("RAW") || protocol.starts_with("PING") || protocol == "PACKET") trait = Trait::kRawSocket;
  if (protocol == "NETLINK") trait = Trait::kNetlinkSocket;
  probe.note(trait, pid, protocol);
}

void read_tables(TaskProbe& probe) {
  for (auto [file, protocol] : kTables) {
    auto text = read_file(probe.path(probe.init, fmt::format("net/{}", file)));
    if (!text) continue;
    for (const auto& line : split(*text, '\n')) {
      auto w = words(line);
      if (w.size() < 9) continue;
      // The inode is the last column of packet and the tenth of the others.
      uint64_t inode =
          leading_number(std::string_view(file) == "packet" ? w.back() : w[std::min<size_t>(9, w.size() - 1)]);
      if (inode != 0 && probe.sockets.contains(inode)) probe.socket_protocol.emplace(inode, protocol);
    }
  }
}

void count_connection(TaskProbe& probe, const InetSocket& s) {
  if (s.within_host) {
    ++probe.out.tcp_loopback;
    return;
  }
  ++probe.out.tcp_established;
  ++probe.out.established_by_port[s.local_port];
}

std::vector<InetSocket> read_sockets(TaskProbe& probe, std::string_view protocol,
                                     std::initializer_list<const char*> tables) {
  std::vector<InetSocket> all;
  for (const char* table : tables) {
    auto text = read_file(probe.path(probe.init, table), 64U << 20);
    // No IPv6 in the kernel: no tcp6.
    if (!text && text.error().sys_errno() != ENOENT)
      probe.unreadable(fmt::format("{} sockets of process {}: {}", protocol, probe.init, text.error().message()));
    if (!text) continue;
    auto some = parse_inet_sockets(*text);
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

void note_bound(TaskProbe& probe, std::string_view protocol, const InetSocket& s) {
  auto& list = probe.out.bound_to_address;
  if (!s.bound || list.size() >= kMaxBound) return;
  auto shown = s.local_ip.contains(':') ? "[" + s.local_ip + "]" : s.local_ip;
  list.push_back(fmt::format("{} {}:{}", protocol, shown, s.local_port));
}

void probe_udp(TaskProbe& probe) {
  for (const auto& s : read_sockets(probe, "UDP", {"net/udp", "net/udp6"}))
    if (s.inode != 0 && probe.sockets.contains(s.inode) && s.state == kUnconnected) note_bound(probe, "UDP", s);
}

void probe_tcp(TaskProbe& probe) {
  auto all = read_sockets(probe, "TCP", {"net/tcp", "net/tcp6"});
  std::set<std::string> hosts;
  std::set<uint16_t> listening;
  for (const auto& s : all) {
    auto owner = probe.sockets.find(s.inode);
    if (s.inode == 0 || owner == probe.sockets.end()) continue;
    if (s.state == kListening) {
      listening.insert(s.local_port);
      ++probe.out.tcp_listening;
      note_bound(probe, "TCP", s);
      if (s.queue > 0) probe.note(Trait::kBacklog, owner->second, fmt::format("port {}", s.local_port), s.queue);
    }
    if (s.state != kEstablished) continue;
    count_connection(probe, s);
    if (!s.within_host) hosts.insert(s.remote_ip);
  }
  probe.out.tcp_hosts = static_cast<uint32_t>(hosts.size());
  // Handshakes have no inode yet: they belong to whoever listens on their port.
  for (const auto& s : all)
    if (s.state == kSynReceived && listening.contains(s.local_port))
      probe.note(Trait::kSynReceived, probe.init, fmt::format("port {}", s.local_port));
}

void probe_unix(TaskProbe& probe) {
  bool any = std::ranges::any_of(probe.socket_protocol, [](const auto& s) { return s.second.starts_with("UNIX"); });
  if (!probe.options.ask_kernel || !any) return;
  auto all = unix_sockets(probe.path(probe.init, "ns/net"));
  if (!all) return probe.unreadable(fmt::format("peers of UNIX sockets: {}", all.error().message()));
  for (const auto& [inode, pid] : probe.sockets) {
    auto it = all->find(inode);
    if (it == all->end() || it->second.peer_inode == 0 || probe.sockets.contains(it->second.peer_inode)) continue;
    auto peer = all->find(it->second.peer_inode);
    std::string name = it->second.name;
    if (name.empty() && peer != all->end()) name = peer->second.name;
    probe.note(Trait::kExternalUnixSocket, pid, name.empty() ? "no name" : name);
  }
}

}  // namespace

void probe_sockets(TaskProbe& probe) {
  read_tables(probe);
  for (const auto& [inode, protocol] : probe.socket_protocol) note_protocol(probe, probe.sockets[inode], protocol);
  probe_tcp(probe);
  probe_udp(probe);
  probe_unix(probe);
}

}  // namespace transship::sys
