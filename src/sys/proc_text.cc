#include "sys/proc_text.h"

#include <arpa/inet.h>

#include <array>
#include <charconv>
#include <cstring>

#include "base/text.h"

namespace transship::sys {

namespace {

template <class T>
bool number(std::string_view text, T& value, int base) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return error == std::errc() && end == text.data() + text.size();
}

// Calls `use` for every line that is not empty.
template <class F>
void each_line(std::string_view text, F&& use) {
  while (!text.empty()) {
    auto end = text.find('\n');
    auto line = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
    if (!line.empty()) use(line);
  }
}

// mountinfo writes space, tab, newline and backslash as \ooo.
std::string undo_octal(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned code = 0;
    if (text[i] == '\\' && i + 3 < text.size() && number(text.substr(i + 1, 3), code, 8)) {
      out += static_cast<char>(code);
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

// "0100007F:1F90" or the 32-digit form of IPv6.
struct HexAddress {
  std::string_view ip;
  uint16_t port = 0;
};
bool parse_hex_address(std::string_view text, HexAddress& out) {
  auto colon = text.find(':');
  if (colon == std::string_view::npos) return false;
  out.ip = text.substr(0, colon);
  return number(text.substr(colon + 1), out.port, 16);
}

bool is_loopback(std::string_view ip) {
  // Each 32-bit word is printed in the host's byte order: on little-endian machines 127.x is the last byte of four.
  if (ip.size() == 8) return ip.ends_with("7F");
  return ip == "00000000000000000000000001000000" || (ip.starts_with("0000000000000000FFFF0000") && ip.ends_with("7F"));
}

// Those of IPv4 in IPv6 as IPv4; empty when it is none.
std::string address_text(std::string_view ip) {
  if (ip.size() != 8 && ip.size() != 32) return {};
  std::array<uint32_t, 4> parts = {};
  for (size_t i = 0; i < ip.size() / 8; ++i)
    if (!number(ip.substr(8 * i, 8), parts[i], 16)) return {};
  std::array<char, INET6_ADDRSTRLEN> text = {};
  bool mapped = ip.starts_with("0000000000000000FFFF0000");
  const void* bytes = mapped ? &parts[3] : parts.data();
  if (::inet_ntop(ip.size() == 8 || mapped ? AF_INET : AF_INET6, bytes, text.data(), text.size()) == nullptr) return {};
  return text.data();
}

bool is_one_address(std::string_view ip) {
  auto text = address_text(ip);
  if (text.empty() || text == "0.0.0.0" || text == "::" || is_loopback(ip)) return false;
  if (text.contains(':')) return !text.starts_with("ff");
  auto first = leading_number(text);
  return first < 224;
}

}  // namespace

std::vector<std::string_view> words(std::string_view line) {
  std::vector<std::string_view> out;
  constexpr std::string_view kSpace = " \t";
  for (size_t start = line.find_first_not_of(kSpace); start != std::string_view::npos;) {
    size_t end = line.find_first_of(kSpace, start);
    out.push_back(line.substr(start, end - start));
    start = line.find_first_not_of(kSpace, end);
  }
  return out;
}

std::map<std::string, std::string> parse_fields(std::string_view text) {
  std::map<std::string, std::string> fields;
  each_line(text, [&](std::string_view line) {
    auto colon = line.find(':');
    if (colon != std::string_view::npos)
      fields.emplace(std::string(line.substr(0, colon)), std::string(trim(line.substr(colon + 1))));
  });
  return fields;
}

uint64_t leading_number(std::string_view value) {
  uint64_t n = 0;
  (void)std::from_chars(value.data(), value.data() + value.size(), n);
  return n;
}

namespace {
// "sdev:800013" of an inotify line is the kernel's own number: 12 bits of major, 20 of minor.
std::string watched_device(const std::vector<std::string_view>& line) {
  for (auto word : line) {
    uint64_t device = 0;
    if (word.starts_with("sdev:") && number(word.substr(5), device, 16))
      return fmt::format("{}:{}", device >> 20, device & 0xfffff);
  }
  return {};
}
}  // namespace

FdInfo parse_fdinfo(std::string_view text) {
  FdInfo info;
  each_line(text, [&](std::string_view line) {
    auto w = words(line);
    if (w.size() < 2) return;
    if (w[0] == "mnt_id:") info.mount_id = leading_number(w[1]);
    if (w[0] == "inotify") info.watched.push_back(watched_device(w));
    if (w[0] == "lock:" && w.size() > 2) info.locks.emplace_back(w[2]);  // "lock: 1: FLOCK ADVISORY WRITE …"
    if (w[0] == "tty-index:") info.tty_index = static_cast<int64_t>(leading_number(w[1]));
    if (w[0] == "Pid:") info.pidfd_pid = w[1].starts_with('-') ? -1 : static_cast<int64_t>(leading_number(w[1]));
  });
  return info;
}

std::vector<Mapping> parse_maps(std::string_view text) {
  std::vector<Mapping> maps;
  each_line(text, [&](std::string_view line) {
    auto w = words(line);
    if (w.size() < 5 || w[1].size() < 4) return;
    auto dash = w[0].find('-');
    Mapping m;
    if (dash == std::string_view::npos || !number(w[0].substr(0, dash), m.start, 16) ||
        !number(w[0].substr(dash + 1), m.end, 16))
      return;
    m.shared = w[1][3] == 's';
    m.inode = leading_number(w[4]);
    if (w.size() > 5) m.path = line.substr(static_cast<size_t>(w[5].data() - line.data()));
    maps.push_back(std::move(m));
  });
  return maps;
}

std::vector<MountEntry> parse_mountinfo(std::string_view text) {
  std::vector<MountEntry> mounts;
  each_line(text, [&](std::string_view line) {
    auto dash = line.find(" - ");
    auto w = words(line);
    if (dash == std::string_view::npos || w.size() < 6) return;
    auto after = words(line.substr(dash + 3));
    if (after.empty()) return;
    mounts.push_back(
        {leading_number(w[0]), std::string(w[2]), undo_octal(w[3]), undo_octal(w[4]), std::string(after[0])});
  });
  return mounts;
}

std::vector<InetSocket> parse_inet_sockets(std::string_view text) {
  std::vector<InetSocket> sockets;
  each_line(text, [&](std::string_view line) {
    auto w = words(line);
    HexAddress local;
    HexAddress remote;
    InetSocket s;
    // sl local rem st tx:rx tr:when retrnsmt uid timeout inode; the title line has no addresses and is skipped
    if (w.size() < 10 || !parse_hex_address(w[1], local) || !parse_hex_address(w[2], remote) ||
        !number(w[3], s.state, 16))
      return;
    auto colon = w[4].find(':');
    if (colon != std::string_view::npos) (void)number(w[4].substr(colon + 1), s.queue, 16);
    s.local_port = local.port;
    s.remote_port = remote.port;
    s.within_host = is_loopback(remote.ip) || is_loopback(local.ip) || (remote.port != 0 && local.ip == remote.ip);
    s.inode = leading_number(w[9]);
    s.bound = is_one_address(local.ip);
    s.local_ip = address_text(local.ip);
    s.remote_ip = address_text(remote.ip);
    sockets.push_back(s);
  });
  return sockets;
}

}  // namespace transship::sys
