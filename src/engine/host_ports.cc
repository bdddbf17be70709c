#include "engine/host_ports.h"

#include <arpa/inet.h>

#include <array>
#include <charconv>
#include <cstring>

#include "base/text.h"
#include "sys/file.h"

namespace transship::engine {
namespace {

// The kernel prints each 32-bit word of the address as a number in the host's byte order.
Result<std::string> parse_address(std::string_view hex_words) {
  if (hex_words.size() != 8 && hex_words.size() != 32)
    return fail(Errc::kCorrupt, "\"{}\" is not an address of /proc/net", hex_words.substr(0, 64));
  std::array<uint32_t, 4> words{};
  size_t count = hex_words.size() / 8;
  bool any = true;
  for (size_t n = 0; n < count; ++n) {
    auto part = hex_words.substr(n * 8, 8);
    auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), words[n], 16);
    if (error != std::errc() || end != part.data() + part.size())
      return fail(Errc::kCorrupt, "\"{}\" is not an address of /proc/net", hex_words);
    any = any && words[n] == 0;
  }
  if (any) return std::string();
  std::array<char, INET6_ADDRSTRLEN> text{};
  (void)::inet_ntop(count == 1 ? AF_INET : AF_INET6, words.data(), text.data(), text.size());
  std::string address(text.data());
  if (address.starts_with("::ffff:")) address.erase(0, 7);
  return address == "0.0.0.0" ? std::string() : address;
}

}  // namespace

Result<std::vector<Listener>> parse_proc_net(const std::string& text, const std::string& protocol) {
  constexpr std::string_view kListen = "0A";
  std::vector<Listener> found;
  auto lines = split(text, '\n');
  for (size_t n = 1; n < lines.size(); ++n) {
    std::vector<std::string> fields;
    for (auto& f : split(lines[n], ' '))
      if (!f.empty()) fields.push_back(std::move(f));
    if (fields.size() < 4) continue;
    if (protocol == "tcp" && fields[3] != kListen) continue;
    auto colon = fields[1].find(':');
    if (colon == std::string::npos) return fail(Errc::kCorrupt, "/proc/net/{}: no port in \"{}\"", protocol, fields[1]);
    Listener l;
    l.protocol = protocol;
    TS_TRY_ASSIGN(l.ip, parse_address(std::string_view(fields[1]).substr(0, colon)));
    auto port = std::string_view(fields[1]).substr(colon + 1);
    if (std::from_chars(port.data(), port.data() + port.size(), l.port, 16).ec != std::errc())
      return fail(Errc::kCorrupt, "/proc/net/{}: \"{}\" is not a port", protocol, port);
    found.push_back(std::move(l));
  }
  return found;
}

Result<std::vector<Listener>> listeners(const std::string& proc_net) {
  std::vector<Listener> all;
  for (const char* file : {"tcp", "tcp6", "udp", "udp6"}) {
    auto text = sys::read_file(fmt::format("{}/{}", proc_net, file), 64U << 20);
    if (!text && text.error().code() == Errc::kNotFound) continue;  // a kernel without IPv6
    if (!text) return std::unexpected(std::move(text).error());
    TS_TRY_ASSIGN(auto some, parse_proc_net(*text, std::string(file, 3)));
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

bool overlaps(const HostPort& wanted, const Listener& taken) {
  if (wanted.protocol != taken.protocol || wanted.host_port != taken.port) return false;
  bool wants_all = wanted.host_ip.empty() || wanted.host_ip == "0.0.0.0" || wanted.host_ip == "::";
  return wants_all || taken.ip.empty() || wanted.host_ip == taken.ip;
}

}  // namespace transship::engine
