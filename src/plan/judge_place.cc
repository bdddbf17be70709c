// Names, ports and addresses on the destination; and what becomes of clients that came through the old host.
#include <algorithm>

#include "base/text.h"
#include "plan/rows.h"

namespace transship::plan {

namespace {

bool has_row(const PlanInput& in, std::string_view check) {
  return std::ranges::any_of(in.destination_rows, [&](const Row& r) { return r.check == check; });
}

std::string ports_text(const ContainerSide& c) {
  std::vector<std::string> parts;
  for (const auto& p : c.host_ports) parts.push_back(fmt::format("{}/{}", p.host_port, p.protocol));
  return join(parts, ", ");
}

// Rows for what the destination has nothing against.
void fill_in(const PlanInput& in, Rows& rows) {
  const auto& c = in.container;
  auto fill = [&](const char* check, const std::string& what) {
    if (has_row(in, check) || what.empty()) return;
    if (in.destination_judged)
      rows.ok(check, fmt::format("{} is free there", what));
    else
      rows.warn(check, fmt::format("{}: not known whether it is free there", what),
                "it is asked again before anything moves");
  };
  fill("name", c.name);
  if (!in.new_address) fill("address", join(c.addresses, ", "));
  fill("host-port", ports_text(c));
}

// Connections that came in through a published port are translated by this host's firewall. The cutover moves the route
// of the container's own address; packets for the host's address go on arriving here.
void judge_published_ports(const PlanInput& in, Rows& rows) {
  // With a new address everybody's connections end, and the ports are the destination's.
  if (in.container.host_ports.empty() || in.abilities.published_ports_follow || in.new_address) return;
  uint32_t connections = 0;
  for (const auto& [port, count] : in.tasks.established_by_port) {
    bool published = std::ranges::any_of(
        in.container.host_ports, [&](const auto& p) { return p.container_port == port && p.protocol == "tcp"; });
    if (published) connections += count;
  }
  rows.warn(
      "published-ports",
      fmt::format("{} of this host; {} connections are open on them. Those that came to the host's address, not the "
                  "container's, end at the move",
                  ports_text(in.container), connections),
      fmt::format("let clients use the container's own address, or send them to {} afterwards", in.peer));
}

}  // namespace

void judge_place(const PlanInput& in, Rows& rows) {
  fill_in(in, rows);
  for (const auto& row : in.destination_rows)
    if (row.check != "cpu-features") rows.add(row);
  judge_published_ports(in, rows);
  if (in.new_address) judge_new_address(in, rows);
}

}  // namespace transship::plan
