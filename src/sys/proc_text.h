// The formats of /proc files that more than one place reads. Pure: text in, values out; lines that make no sense are
// skipped, because every kernel may add some.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace transship::sys {

// Runs of spaces and tabs are one separator.
std::vector<std::string_view> words(std::string_view line);

// "Name:\tvalue" lines: status, fdinfo, smaps_rollup. A name that comes twice keeps its first value.
std::map<std::string, std::string> parse_fields(std::string_view text);
// Leading number of such a value, 0 when there is none; "12 kB" -> 12.
uint64_t leading_number(std::string_view value);

struct FdInfo {
  uint64_t mount_id = 0;
  std::vector<std::string> watched;  // devices of the files that an inotify descriptor watches, as in MountEntry
  std::vector<std::string> locks;    // "POSIX", "FLOCK", "OFDLCK", "LEASE", "DELEG"
  int64_t tty_index = -1;            // of a pty master
  int64_t pidfd_pid = 0;             // 0: not a pidfd; -1: that process has ended
};
FdInfo parse_fdinfo(std::string_view text);

struct Mapping {
  uint64_t start = 0;
  uint64_t end = 0;
  bool shared = false;
  uint64_t inode = 0;
  std::string path;  // as the kernel prints it, " (deleted)" included
};
std::vector<Mapping> parse_maps(std::string_view text);

struct MountEntry {
  uint64_t id = 0;
  std::string device;  // "0:26"
  std::string root;
  std::string point;  // octal escapes undone
  std::string type;
};
std::vector<MountEntry> parse_mountinfo(std::string_view text);

// One line of /proc/net/tcp, tcp6, udp, raw…
struct InetSocket {
  uint16_t local_port = 0;
  uint16_t remote_port = 0;
  bool within_host = false;  // over loopback, or to its own address
  uint32_t state = 0;        // TCP_ESTABLISHED 1, TCP_SYN_RECV 3, TCP_LISTEN 10
  uint64_t queue = 0;        // receive queue; of a listening socket: connections not accepted yet
  uint64_t inode = 0;
  bool bound = false;    // to one address of the host, not loopback and not multicast
  std::string local_ip;  // as text
  std::string remote_ip;
};
std::vector<InetSocket> parse_inet_sockets(std::string_view text);

}  // namespace transship::sys
