// A move with --new-ip: TCP connections are bound to the address that ends, and so are some sockets.
#include "base/text.h"
#include "plan/rows.h"

namespace transship::plan {
namespace {

std::string counted(uint64_t n, std::string_view what) { return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s"); }

std::string ports_text(const ContainerSide& c) {
  std::vector<std::string> parts;
  parts.reserve(c.host_ports.size());
  for (const auto& p : c.host_ports) parts.push_back(fmt::format("{}/{}", p.host_port, p.protocol));
  return join(parts, ", ");
}

void judge_bound(const PlanInput& in, Rows& rows) {
  const auto& bound = in.tasks.bound_to_address;
  if (bound.empty()) return;
  rows.block("bound-address",
             fmt::format("{} bound to an address of the container's, which it does not have on {}",
                         join(bound, ", ") + (bound.size() == 1 ? " is" : " are"), in.peer),
             "have the program listen on all addresses (0.0.0.0, ::), or move it without --new-ip");
}

// Clients of a published port use the host's address: they have to turn to the other host.
void judge_ports(const PlanInput& in, Rows& rows) {
  if (in.container.host_ports.empty()) return;
  rows.warn(
      "published-ports",
      fmt::format("{}: published by {} from then on, and no more by this host", ports_text(in.container), in.peer),
      fmt::format("send clients to {} afterwards, or give them an entry: transship expose", in.peer));
}

}  // namespace

void judge_new_address(const PlanInput& in, Rows& rows) {
  const auto& c = in.container;
  judge_bound(in, rows);
  judge_ports(in, rows);
  auto entries = in.entries.empty() ? std::string()
                                    : fmt::format("; {} {} to it as before, for new connections",
                                                  join(in.entries, ", "), in.entries.size() == 1 ? "leads" : "lead");
  if (c.addresses.empty()) return rows.ok("new-address", "it has no address of its own");
  auto change = fmt::format("{} ends, {} gives it another one", join(c.addresses, " and "), in.peer);
  if (in.tasks.tcp_established == 0) return rows.ok("new-address", change + entries);
  rows.warn("new-address",
            fmt::format("{}; {} with {} will be closed{}", change,
                        counted(in.tasks.tcp_established, "established connection"),
                        counted(in.tasks.tcp_hosts, "host"), entries),
            in.entries.empty()
                ? fmt::format("clients have to connect anew, to the new address: by name ({}.transship), "
                              "or by an entry that stays: transship expose",
                              c.name)
                : "clients have to connect anew");
}

}  // namespace transship::plan
