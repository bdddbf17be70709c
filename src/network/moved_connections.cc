#include "network/moved_connections.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <set>

#include "base/text.h"
#include "network/socket_table.h"
#include "sys/file.h"
#include "sys/process.h"

namespace transship::network {
namespace {

constexpr std::string_view kPrefix = "transship_";
constexpr size_t kIdDigits = 12;

// States that CRIU takes along: established, SYN sent, FIN wait 1 and 2, close wait, last ACK, closing.
bool travels(std::string_view state) {
  constexpr std::array<std::string_view, 7> kStates = {"01", "02", "04", "05", "08", "09", "0B"};
  return std::ranges::find(kStates, state) != kStates.end();
}

struct Endpoint {
  IpAddress address;
  uint16_t port = 0;
};

// "0100007F:1F90": each 32-bit word of the address in the host's byte order, then the port.
Result<Endpoint> parse_endpoint(std::string_view text) {
  size_t colon = text.find(':');
  if ((colon != 8 && colon != 32) || text.size() != colon + 5)
    return fail(Errc::kUnavailable, "the kernel's table of connections has \"{}\"", text.substr(0, 64));
  std::array<uint8_t, 16> bytes = {};
  for (size_t i = 0; i < colon; i += 8) {
    uint32_t word = 0;
    std::from_chars(text.data() + i, text.data() + i + 8, word, 16);
    std::memcpy(bytes.data() + i / 2, &word, sizeof word);
  }
  Endpoint e;
  std::from_chars(text.data() + colon + 1, text.data() + text.size(), e.port, 16);
  e.address = colon == 8 ? IpAddress::v4({bytes[0], bytes[1], bytes[2], bytes[3]}) : IpAddress::v6(bytes);
  return e;
}

Result<> read_table(const std::string& path, std::set<Connection>& out) {
  return each_socket(path, 4, [&](const std::vector<std::string>& words) -> Result<> {
    if (!travels(words[3])) return {};
    TS_TRY_ASSIGN(Endpoint local, parse_endpoint(words[1]));
    TS_TRY_ASSIGN(Endpoint remote, parse_endpoint(words[2]));
    if (!local.address.is_loopback() && !remote.address.is_loopback())
      out.insert({local.address, local.port, remote.address, remote.port});
    return {};
  });
}

std::string table_name(const std::string& container_id) { return std::string(kPrefix) + table_key(container_id); }

std::string set_of(std::string_view name, std::string_view type, const std::vector<Connection>& connections, bool v4) {
  std::vector<std::string> elements;
  for (const auto& c : connections)
    if (c.local.is_v4() == v4)
      elements.push_back(
          fmt::format("{} . {} . {} . {}", c.local.text(), c.local_port, c.remote.text(), c.remote_port));
  auto list = elements.empty() ? std::string() : fmt::format("elements = {{ {} }}\n", join(elements, ", "));
  return fmt::format("set {} {{ type {} . inet_service . {} . inet_service\n{} }}\n", name, type, type, list);
}

std::string chain_of(std::string_view hook) {
  return fmt::format(
      "chain {0} {{ type filter hook {0} priority raw; policy accept;\n"
      "ip saddr . tcp sport . ip daddr . tcp dport @v4 notrack\n"
      "ip daddr . tcp dport . ip saddr . tcp sport @v4 notrack\n"
      "ip6 saddr . tcp sport . ip6 daddr . tcp dport @v6 notrack\n"
      "ip6 daddr . tcp dport . ip6 saddr . tcp sport @v6 notrack\n"
      "}}\n",
      hook);
}

Result<> run_nft(std::string script, std::string_view what) {
  sys::Command c;
  c.argv = {"nft", "-f", "-"};
  c.input = std::move(script);
  c.deadline = Deadline::in(milliseconds(10'000));
  TS_TRY_CTX(sys::run_ok(c), what);
  return {};
}

// A table that is not there cannot be deleted: it is added first, in the same transaction.
std::string without_table(const std::string& table) {
  return fmt::format("table inet {0}\ndelete table inet {0}\n", table);
}

}  // namespace

std::string table_key(const std::string& container_id) {
  auto id = container_id.substr(0, kIdDigits);
  if (id.size() == kIdDigits && id.find_first_not_of("0123456789abcdef") == std::string::npos) return id;
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (unsigned char c : container_id) hash = (hash ^ c) * 0x100000001b3;
  return fmt::format("{:016x}", hash).substr(0, kIdDigits);
}

Result<std::vector<Connection>> established_connections(pid_t pid) {
  std::set<Connection> found;  // an IPv6 socket with a mapped address is in one table only, but order should not matter
  for (const char* table : {"tcp", "tcp6"})
    TS_TRY_CTX(read_table(fmt::format("/proc/{}/net/{}", pid, table), found), "read the container's connections");
  return std::vector<Connection>(found.begin(), found.end());
}

Result<> install_moved_connections(const std::string& container_id, const std::vector<Connection>& connections) {
  if (connections.empty()) return remove_moved_connections(container_id);
  auto table = table_name(container_id);
  for (const auto& c : connections) {
    if (c.local.family() != c.remote.family())
      return fail(Errc::kInvalidArgument, "connection {} to {} has addresses of two kinds", c.local.text(),
                  c.remote.text());
  }
  auto script = without_table(table) + fmt::format("table inet {} {{\n", table) +
                set_of("v4", "ipv4_addr", connections, true) + set_of("v6", "ipv6_addr", connections, false) +
                chain_of("prerouting") + chain_of("output") + "}\n";
  return run_nft(std::move(script),
                 fmt::format("keep {} moved connections out of connection tracking", connections.size()));
}

Result<> remove_moved_connections(const std::string& container_id) {
  auto table = table_name(container_id);
  return run_nft(without_table(table), "remove the firewall exceptions of " + container_id.substr(0, kIdDigits));
}

Result<std::vector<std::string>> list_moved_connections() {
  sys::Command c;
  c.argv = {"nft", "list", "tables"};
  c.deadline = Deadline::in(milliseconds(10'000));
  TS_TRY_ASSIGN(auto listed, sys::run_ok(c));
  std::vector<std::string> ids;
  for (const auto& line : split(listed.out, '\n')) {
    size_t at = line.find(fmt::format("table inet {}", kPrefix));
    if (at != 0) continue;
    auto id = line.substr(std::string_view("table inet ").size() + kPrefix.size());
    if (table_key(id) == id) ids.push_back(std::move(id));
  }
  return ids;
}

}  // namespace transship::network
