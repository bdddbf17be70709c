#include "cli/entry_point.h"

#include "base/text.h"

namespace transship::cli {
namespace {

Result<uint32_t> parse_port(const std::string& text) {
  auto port = parse_u64(text, "a port");
  if (port && *port >= 1 && *port <= 65535) return static_cast<uint32_t>(*port);
  return fail(Errc::kInvalidArgument, "\"{}\" is not a port: numbers from 1 to 65535 are", text.substr(0, 64));
}

Result<std::string> parse_protocol(const std::string& text) {
  if (text == "tcp" || text == "udp" || text == "http") return text;
  return fail(Errc::kInvalidArgument, "\"{}\" can't be exposed: tcp, udp or http", text.substr(0, 64));
}

}  // namespace

Result<PortOfContainer> parse_container_port(const std::string& text) {
  PortOfContainer p;
  auto slash = text.find('/');
  TS_TRY_ASSIGN(p.port, parse_port(text.substr(0, slash)));
  if (slash != std::string::npos) {
    TS_TRY_ASSIGN(p.protocol, parse_protocol(text.substr(slash + 1)));
  }
  return p;
}

Result<EntryPoint> parse_entry(const std::string& text) {
  auto colon = text.find(':');
  EntryPoint e{.node = text.substr(0, colon)};
  if (!is_plain_name(e.node))
    return fail(Errc::kInvalidArgument, "\"{}\" is not an entry: give NODE or NODE:PORT", text.substr(0, 64));
  if (colon != std::string::npos) {
    TS_TRY_ASSIGN(e.port, parse_port(text.substr(colon + 1)));
  }
  return e;
}

Result<EntryPoint> parse_entry_port(const std::string& text) {
  auto slash = text.find('/');
  TS_TRY_ASSIGN(auto e, parse_entry(text.substr(0, slash)));
  if (e.port == 0)
    return fail(Errc::kInvalidArgument,
                "\"{}\" has no port: give NODE:PORT, NODE:PORT/udp or NODE:PORT/http, see transship expose ls",
                text.substr(0, 64));
  if (slash != std::string::npos) {
    TS_TRY_ASSIGN(e.protocol, parse_protocol(text.substr(slash + 1)));
  }
  return e;
}

}  // namespace transship::cli
