#include "network/hold_table.h"

#include "base/text.h"
#include "network/hold.h"
#include "network/netlink.h"
#include "network/raw_sender.h"
#include "sys/process.h"

namespace transship::network {
namespace {

constexpr std::string_view kTablePrefix = "transship_hold_";

Result<std::string> run(std::vector<std::string> argv, std::string input) {
  sys::Command c;
  c.argv = std::move(argv);
  c.input = std::move(input);
  c.deadline = Deadline::in(milliseconds(10'000));
  TS_TRY_ASSIGN(auto done, sys::run_ok(c));
  return done.out;
}

}  // namespace

Result<> install_hold_table(const std::string& device) {
  auto script = fmt::format(
      "table inet {0}{1}\ndelete table inet {0}{1}\n"
      "table inet {0}{1} {{ chain output {{ type filter hook output priority raw; policy accept;\n"
      "meta mark {2} notrack\n}}\n}}\n",
      kTablePrefix, device, RawSender::kHoldMark);
  TS_TRY_CTX(run({"nft", "-f", "-"}, std::move(script)), "firewall exception for kept packets");
  return {};
}

Result<> remove_hold_table(const std::string& device) {
  TS_TRY(run({"nft", "-f", "-"}, fmt::format("table inet {0}{1}\ndelete table inet {0}{1}\n", kTablePrefix, device)));
  return {};
}

Result<unsigned> remove_stale_holds() {
  unsigned removed = 0;
  TS_TRY_ASSIGN(auto tables, run({"nft", "list", "tables"}, ""));
  auto wanted = fmt::format("table inet {}", kTablePrefix);
  for (const auto& line : split(tables, '\n')) {
    if (!line.starts_with(wanted)) continue;
    TS_TRY(remove_hold_table(line.substr(wanted.size())));
    ++removed;
  }
  // The device went with the process, and its routes with it; a forwarding route goes through a device of the host.
  for (const char* family : {"-4", "-6"}) {
    auto protocol = fmt::format("{}", HostRoute::kProtocol);
    TS_TRY_ASSIGN(auto routes, run({"ip", family, "route", "show", "proto", protocol}, ""));
    if (trim(routes).empty()) continue;
    TS_TRY(run({"ip", family, "route", "flush", "proto", protocol}, ""));
    removed += static_cast<unsigned>(split(trim(routes), '\n').size());
  }
  return removed;
}

}  // namespace transship::network
