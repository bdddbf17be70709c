#include "gateway/haproxy_config.h"

#include <algorithm>
#include <cctype>

namespace transship::gateway {
namespace {

constexpr size_t kLongestPath = 256;
// Dynamic servers do not take what a section says for all: so it stands with each. A check every 2 s, faster while it
// is not clear: down some 3 s after it has stopped answering, up with the first answer.
constexpr const char* kCheck = "check inter 2s fastinter 500ms downinter 1s fall 3 rise 1";

std::string where(const Backend& b) {
  return b.address.is_v4() ? fmt::format("{}:{}", b.address.text(), b.port)
                           : fmt::format("[{}]:{}", b.address.text(), b.port);
}

std::string path_of(const std::string& server) { return fmt::format("{}/{}", kBackendSection, server); }

// Nothing of it limits how long a connection or an answer may last, as nothing does when a client speaks to a container
// itself; only who begins a request and does not end it is shut out. A connection to a container is tried again for a
// minute: while it is moving alone behind its entry nobody is told that it isn't there. A request that may be made
// twice is, when its connection ends without an answer: a container that comes back with another address has lost its
// connections.
constexpr const char* kDefaults =
    "defaults\n"
    "  mode http\n"
    "  timeout connect 2s\n"
    "  retries 30\n"
    "  retry-on conn-failure empty-response\n"
    "  option redispatch 1\n"
    "  timeout queue 60s\n"
    "  timeout check 2s\n"
    "  timeout http-request 30s\n"
    "  timeout http-keep-alive 1h\n"
    "  timeout client 1h\n"
    "  timeout client-fin 30s\n"
    "  timeout server 1h\n"
    "  timeout tunnel 24h\n"
    "  option http-keep-alive\n"
    "  option idle-close-on-response\n"
    "  option forwardfor\n";

}  // namespace

std::string server_name(const std::string& container, uint16_t port) { return fmt::format("{}-{}", container, port); }

Result<> check_health_path(const std::string& path) {
  bool good = !path.empty() && path.size() <= kLongestPath && path.front() == '/' &&
              std::ranges::all_of(path, [](unsigned char c) {
                return std::isalnum(c) != 0 || std::string_view("/._~-%?=&+,:@").contains(static_cast<char>(c));
              });
  if (good) return {};
  return fail(Errc::kInvalidArgument,
              "\"{}\" is not a path for health checks: / and then letters, digits and /._~-%?=&+,:@, {} at most",
              path.substr(0, 64), kLongestPath);
}

std::string config_path(const GatewayOptions& o, uint16_t port) { return fmt::format("{}/{}.cfg", o.directory, port); }
std::string socket_path(const GatewayOptions& o, uint16_t port) { return fmt::format("{}/{}.sock", o.directory, port); }

std::string haproxy_config(const GatewayOptions& o, const Entry& entry, const ProcessUser& user) {
  std::string out = fmt::format(
      "# Written by transshipd for port {}, and written again when it changes.\n"
      "global\n"
      "  uid {}\n"
      "  gid {}\n"
      "  chroot {}/empty\n"
      "  stats socket {} mode 600 user root group root level admin expose-fd listeners\n"
      "  stats timeout 10s\n"
      "  maxconn 8192\n"
      "  no strict-limits\n"
      "  nbthread {}\n"
      "  hard-stop-after 60s\n",
      entry.port, user.uid, user.gid, o.directory, socket_path(o, entry.port), o.threads);
  out += kDefaults;
  // Each by itself: X-Forwarded-For would have ::ffff:10.0.0.1 from one socket of both.
  out += fmt::format("frontend entry\n  bind 0.0.0.0:{}\n", entry.port);
  if (o.ipv6) out += fmt::format("  bind [::]:{} v6only\n", entry.port);
  out += fmt::format("  default_backend {}\n", kBackendSection);
  out += fmt::format("backend {}\n  balance leastconn\n  http-request disable-l7-retry unless METH_GET\n",
                     kBackendSection);
  if (!entry.health.empty())
    out += fmt::format("  option httpchk\n  http-check send meth GET uri {} ver HTTP/1.1 hdr Host localhost\n",
                       entry.health);
  return out;
}

std::string server_lines(const std::vector<Backend>& backends) {
  std::string out;
  for (const auto& b : backends)
    if (!b.draining) out += fmt::format("  server {} {} {}\n", b.name, where(b), kCheck);
  return out;
}

std::vector<std::string> add_commands(const Backend& b) {
  return {fmt::format("add server {} {} {}", path_of(b.name), where(b), kCheck), "enable health " + path_of(b.name),
          "enable server " + path_of(b.name)};
}

std::vector<std::string> remove_commands(const std::string& server) {
  return {fmt::format("set server {} state maint", path_of(server)), "shutdown sessions server " + path_of(server),
          "del server " + path_of(server)};
}

}  // namespace transship::gateway
