#include "gateway/balance.h"

#include <algorithm>
#include <map>

#include "base/text.h"

namespace transship::gateway {
namespace {

// Of srv_admin_state and srv_check_state, in HAProxy's management guide.
constexpr uint64_t kForcedMaintenance = 0x01;
constexpr uint64_t kInheritedMaintenance = 0x02;
constexpr uint64_t kForcedDrain = 0x08;
constexpr uint64_t kCheckEnabled = 0x04;

// Lines behind a heading "# a b c" (or "# a,b,c"), as maps from the heading's words.
class Rows {
 public:
  Rows(std::string_view text, char separator) {
    std::vector<std::string> heading;
    for (const auto& line : split(text, '\n')) {
      if (line.starts_with("# ")) {
        heading = split(std::string_view(line).substr(2), separator);
        continue;
      }
      auto words = split(line, separator);
      if (heading.empty() || words.size() < 2) continue;
      auto& row = rows_.emplace_back();
      for (size_t i = 0; i < std::min(heading.size(), words.size()); ++i) row[heading[i]] = words[i];
    }
  }
  auto begin() const { return rows_.begin(); }
  auto end() const { return rows_.end(); }

 private:
  std::vector<std::map<std::string, std::string>> rows_;
};

Result<std::string> text_at(const std::map<std::string, std::string>& row, const std::string& column) {
  auto found = row.find(column);
  if (found != row.end()) return found->second;
  return fail(Errc::kCorrupt, "what HAProxy says of its servers has no {}", column);
}

Result<uint64_t> number_at(const std::map<std::string, std::string>& row, const std::string& column) {
  TS_TRY_ASSIGN(auto text, text_at(row, column));
  auto number = parse_u64(text, column);
  if (number) return *number;
  return fail(Errc::kCorrupt, "HAProxy says {} of {}", text.substr(0, 32), column);
}

bool same_place(const Backend& b, const ServerStatus& s) { return s.address == b.address.text() && s.port == b.port; }

bool usable(const Backend& b, const std::vector<ServerStatus>& now) {
  auto s = find_server(now, b.name);
  return !b.draining && !b.paused && s && s->runs && !s->maintenance && same_place(b, *s);
}

void adjust(const Backend& b, const ServerStatus& s, bool drain, std::vector<std::string>& out) {
  auto path = fmt::format("{}/{}", kBackendSection, b.name);
  if (s.checked == b.paused) out.push_back(fmt::format("{} health {}", b.paused ? "disable" : "enable", path));
  if (s.maintenance || s.drain != drain)
    out.push_back(fmt::format("set server {} state {}", path, drain ? "drain" : "ready"));
}

}  // namespace

std::optional<ServerStatus> find_server(const std::vector<ServerStatus>& servers, std::string_view name) {
  auto found = std::ranges::find(servers, name, &ServerStatus::name);
  return found == servers.end() ? std::nullopt : std::optional(*found);
}

Result<std::vector<ServerStatus>> parse_servers(std::string_view states, std::string_view statistics) {
  std::map<std::string, uint64_t> requests;
  for (const auto& row : Rows(statistics, ',')) {
    TS_TRY_ASSIGN(auto name, text_at(row, "svname"));
    TS_TRY_ASSIGN(uint64_t running, number_at(row, "scur"));
    TS_TRY_ASSIGN(uint64_t waiting, number_at(row, "qcur"));
    requests[name] = running + waiting;
  }
  std::vector<ServerStatus> all;
  for (const auto& row : Rows(states, ' ')) {
    ServerStatus s;
    TS_TRY_ASSIGN(s.name, text_at(row, "srv_name"));
    TS_TRY_ASSIGN(s.address, text_at(row, "srv_addr"));
    TS_TRY_ASSIGN(uint64_t port, number_at(row, "srv_port"));
    TS_TRY_ASSIGN(uint64_t operation, number_at(row, "srv_op_state"));
    TS_TRY_ASSIGN(uint64_t administration, number_at(row, "srv_admin_state"));
    TS_TRY_ASSIGN(uint64_t check, number_at(row, "srv_check_state"));
    s.port = static_cast<uint16_t>(port);
    s.runs = operation != 0;
    s.maintenance = (administration & (kForcedMaintenance | kInheritedMaintenance)) != 0;
    s.drain = (administration & kForcedDrain) != 0;
    s.checked = (check & kCheckEnabled) != 0;
    s.requests = requests[s.name];
    all.push_back(std::move(s));
  }
  return all;
}

Result<uint64_t> parse_pid(std::string_view info) {
  for (const auto& line : split(info, '\n'))
    if (line.starts_with("Pid: ")) return parse_u64(trim(std::string_view(line).substr(5)), "HAProxy's process number");
  return fail(Errc::kCorrupt, "HAProxy does not say which process it is");
}

std::vector<std::string> changes(const std::vector<Backend>& wanted, const std::vector<ServerStatus>& now) {
  std::vector<std::string> out;
  auto say = [&](std::vector<std::string> commands) { std::ranges::move(commands, std::back_inserter(out)); };
  for (const auto& b : wanted) {
    auto s = find_server(now, b.name);
    if (s && same_place(b, *s)) continue;
    if (s) say(remove_commands(b.name));
    if (!b.draining) say(add_commands(b));
  }
  bool others = std::ranges::any_of(wanted, [&](const auto& b) { return usable(b, now); });
  for (const auto& b : wanted)
    if (auto s = find_server(now, b.name); s && same_place(b, *s))
      adjust(b, *s, b.draining || (b.paused && others), out);
  for (const auto& s : now)
    if (!std::ranges::contains(wanted, s.name, &Backend::name)) say(remove_commands(s.name));
  return out;
}

bool is_success(std::string_view answer) {
  auto text = trim(answer);
  return text.empty() || text == "New server registered." || text == "Server deleted.";
}

std::string state_word(const Backend& b, const std::optional<ServerStatus>& now) {
  if (b.draining) return "draining";
  if (b.paused) return "paused";
  return now && now->runs && !now->maintenance ? "up" : "down";
}

}  // namespace transship::gateway
