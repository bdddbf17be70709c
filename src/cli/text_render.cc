#include "cli/text_render.h"

#include <ctime>

#include "base/text.h"
#include "cli/exit_code.h"
#include "cli/names_render.h"
#include "cli/table.h"

namespace transship::cli {
namespace {

std::string ms(uint64_t value) { return format_duration(std::chrono::milliseconds(value)); }

std::string short_id(const std::string& id) { return printable(id.substr(0, 12)); }

// "label   text", wrapped under itself; what every block of facts is made of.
class Facts {
 public:
  // Blocks that belong together pass the same label width.
  explicit Facts(const Screen& screen, size_t label_width = 0)
      : screen_(screen), table_({{""}, {""}, {"", Fit::kWrap}}, {2}), label_width_(label_width) {}
  ~Facts() { table_.print(screen_, false); }
  Facts(const Facts&) = delete;
  Facts& operator=(const Facts&) = delete;
  void add(const std::string& label, const std::string& text) {
    if (!text.empty()) table_.row({{""}, {fmt::format("{:<{}}", label, label_width_), Colour::kDim}, {text}});
  }

 private:
  const Screen& screen_;
  Table table_;
  size_t label_width_;
};

Colour verdict_colour(peer::Verdict verdict) {
  if (verdict == peer::VERDICT_BLOCK) return Colour::kRed;
  return verdict == peer::VERDICT_WARN ? Colour::kYellow : Colour::kGreen;
}

std::string verdict_word(peer::Verdict verdict) {
  switch (verdict) {
    case peer::VERDICT_OK: return "ok";
    case peer::VERDICT_WARN: return "warns";
    case peer::VERDICT_BLOCK: return "blocks";
    default: return "?";
  }
}

template <class List>
std::string joined(const List& list, std::string_view separator) {
  std::vector<std::string> parts;
  for (const std::string& part : list) parts.push_back(printable(part));
  return join(parts, separator);
}

void print_parts(const Screen& screen, const google::protobuf::RepeatedPtrField<local::Part>& parts) {
  Table table({{""}, {"", Fit::kWhole}, {"", Fit::kWhole, 0, true}}, {});
  for (const local::Part& part : parts)
    table.row({{std::string(9, ' ')}, {printable(part.name())}, {fmt::format("{:.1f} ms", part.ms())}});
  table.print(screen, false);
}

void print_facts(Facts& out, const peer::NodeFacts& facts) {
  out.add("version", printable(facts.program_version()));
  out.add("kernel", printable(facts.kernel() + " " + facts.architecture()));
  out.add("criu", printable(facts.criu_version()));
  out.add("runc", printable(facts.runc_version()));
  out.add("engines", joined(facts.engines(), ", "));
  out.add("cgroups", printable(facts.cgroup_mode()));
  out.add("cpus", fmt::format("{}, load {:.2f}", facts.cpus(), facts.load_1m()));
  out.add("memory",
          fmt::format("{} free of {}", format_bytes(facts.memory_available()), format_bytes(facts.memory_total())));
  out.add("storage", fmt::format("{} free", format_bytes(facts.storage_free())));
  out.add("tracking", printable(facts.memory_tracker()));
  out.add("dump", printable(facts.memory_dump()));
  out.add("shortcuts", printable(facts.dump_shortcuts()));
  if (!facts.arbiter().empty())
    out.add("arbiter", printable(facts.arbiter_error().empty() ? facts.arbiter() : facts.arbiter_error()));
  out.add("missing", joined(facts.missing(), "; "));
}

Colour move_colour(const std::string& state) {
  if (state == "done") return Colour::kGreen;
  if (state == "failed" || state == "in doubt") return Colour::kRed;
  return Colour::kNone;
}

// One row per phase that ended.
void print_events(const Screen& screen, const local::ShowReply& reply) {
  Table table({{""}, {"TIME"}, {"PHASE"}, {"STATE"}, {"TOOK", Fit::kWhole, 0, true}, {"DETAIL", Fit::kWrap}}, {5});
  for (const local::MoveEvent& event : reply.events()) {
    if (!event.has_phase() || event.phase().state() == local::PHASE_STARTED) continue;
    const local::PhaseEvent& phase = event.phase();
    bool bad = phase.state() == local::PHASE_FAILED;
    std::string word = bad ? "failed" : phase.state() == local::PHASE_UNDONE ? "undone" : "done";
    table.row({{""},
               {format_time(event.unix_ms())},
               {printable(phase.name())},
               {word, bad ? Colour::kRed : Colour::kNone},
               {ms(phase.elapsed_ms())},
               {printable_lines(phase.detail())}});
  }
  table.print(screen, false);
}

// Whether a peer answers through the tunnel, by its last handshake.
std::string tunnel_word(const local::Peer& peer) {
  if (peer.tunnel_address().empty()) return "-";
  if (!peer.has_tunnel_handshake_age_s()) return "no answer yet";
  auto age = format_duration(std::chrono::seconds(peer.tunnel_handshake_age_s()));
  return peer.tunnel_answers() ? "answers" : "silent for " + age;
}

void print_tunnel(Facts& out, const local::Tunnel& tunnel) {
  std::string how = printable(tunnel.backend());
  if (tunnel.mtu() > 0)
    how +=
        fmt::format(", {}0…, UDP ports from {} on, MTU {}", printable(tunnel.interface()), tunnel.port(), tunnel.mtu());
  out.add("tunnel", how);
  out.add("tunnel address", printable(tunnel.address()));
  out.add("tunnel key", printable(tunnel.public_key()));
}

void print_indented(const Screen& screen, const std::string& label, const std::string& text) {
  if (text.empty()) return;
  size_t indent = label.size();
  size_t room = screen.width() > indent + 24 ? screen.width() - indent : 0;
  bool first = true;
  for (const std::string& line : wrap(printable_lines(text), room)) {
    screen.line((first ? label : std::string(indent, ' ')) + line);
    first = false;
  }
}

}  // namespace

std::string bytes_by_kind(uint64_t memory, uint64_t rootfs, uint64_t volumes, uint64_t image) {
  std::vector<std::string> parts;
  if (memory > 0) parts.push_back("memory " + format_bytes(memory));
  if (rootfs > 0) parts.push_back("files " + format_bytes(rootfs));
  if (volumes > 0) parts.push_back("volumes " + format_bytes(volumes));
  if (image > 0) parts.push_back("image " + format_bytes(image));
  return join(parts, ", ");
}

std::string format_time(int64_t unix_ms) {
  if (unix_ms <= 0) return "-";
  std::time_t seconds = unix_ms / 1000;
  std::tm parts{};
  if (::localtime_r(&seconds, &parts) == nullptr) return "-";
  char text[32];
  size_t length = std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &parts);
  return {text, length};
}

void print_containers(const Screen& screen, const local::ContainersReply& reply) {
  Table table({{"ENGINE"},
               {"NAME", Fit::kCutEnd, 10},
               {"ID", Fit::kPrefix, 8},
               {"IMAGE", Fit::kCutStart, 10},
               {"STATE", Fit::kCutEnd, 7},
               {"MEMORY", Fit::kWhole, 0, true},
               {"ADDRESS", Fit::kCutEnd, 9},
               {"MOVABLE"}},
              {3, 2, 1, 6, 4});
  for (const local::Container& c : reply.containers()) {
    // For grep the reasons stand in the same line; on a terminal they would push the columns apart.
    bool same_line = screen.width() == 0 && !c.why_not().empty();
    std::string movable = c.movable() ? "yes" : same_line ? "no: " + printable(c.why_not()) : "no";
    table.row({{printable(c.engine())},
               {printable(c.name())},
               {short_id(c.id())},
               {printable(c.image())},
               {printable(c.state())},
               {c.memory_bytes() > 0 ? format_bytes(c.memory_bytes()) : "-"},
               {c.addresses().empty() ? "-" : joined(c.addresses(), ",")},
               {movable, c.movable() ? Colour::kGreen : Colour::kYellow}});
    if (!c.movable() && !same_line && !c.why_not().empty()) table.note("not movable: " + printable(c.why_not()), 1);
  }
  table.print(screen);
}

void print_plan_rows(const Screen& screen, const local::PlanReply& plan, bool all_rows) {
  Table table({{"VERDICT"}, {"CHECK"}, {"FOUND", Fit::kWrap}}, {2});
  bool any = false;
  for (const peer::CheckRow& row : plan.rows()) {
    if (!all_rows && row.verdict() == peer::VERDICT_OK) continue;
    any = true;
    table.row({{verdict_word(row.verdict()), verdict_colour(row.verdict())},
               {printable(row.check())},
               {printable_lines(row.found())}});
    if (!row.remedy().empty()) table.note("do: " + printable_lines(row.remedy()), 2);
  }
  if (any) table.print(screen);
}

void print_plan(const Screen& screen, const local::PlanReply& plan, const std::string& to) {
  print_plan_rows(screen, plan, true);
  size_t warns = 0;
  size_t blocks = 0;
  for (const peer::CheckRow& row : plan.rows()) {
    warns += row.verdict() == peer::VERDICT_WARN ? 1 : 0;
    blocks += row.verdict() == peer::VERDICT_BLOCK ? 1 : 0;
  }
  std::string what = fmt::format("{} to {}", printable(plan.container()), printable(to));
  screen.line("");
  if (plan.bytes_total() > 0 || plan.total_ms() > 0) {
    screen.line(fmt::format("Prediction for {}", what));
    Facts facts(screen);
    std::string kinds =
        bytes_by_kind(plan.bytes_memory(), plan.bytes_rootfs(), plan.bytes_volumes(), plan.bytes_image());
    facts.add("bytes", format_bytes(plan.bytes_total()) + (kinds.empty() ? "" : " (" + kinds + ")"));
    if (plan.bits_per_second() > 0)
      facts.add("link", fmt::format("{} measured, {:.1f} ms round trip", format_bit_rate(plan.bits_per_second()),
                                    plan.rtt_ms()));
    facts.add("total", ms(plan.total_ms()));
    facts.add("gap", ms(plan.gap_ms()));
  }
  std::string count = fmt::format("{} checks: {} ok, {} warn, {} block", plan.rows_size(),
                                  static_cast<size_t>(plan.rows_size()) - warns - blocks, warns, blocks);
  if (plan.blocked())
    screen.line(fmt::format("{}. {}", count, screen.paint(Colour::kRed, what + " is blocked.")));
  else
    screen.line(fmt::format("{}. {}", count, screen.paint(Colour::kGreen, what + " can move.")));
}

namespace {

// Nothing to say of a container that keeps them.
void add_addresses(Facts& facts, const local::Summary& s) {
  std::vector<std::string> before(s.old_addresses().begin(), s.old_addresses().end());
  std::vector<std::string> now(s.new_addresses().begin(), s.new_addresses().end());
  if (before == now) return;
  std::string text = fmt::format("{} instead of {}", printable(join(now, " and ")), printable(join(before, " and ")));
  if (s.connections_closed() > 0) text += fmt::format(", {} connections closed", s.connections_closed());
  facts.add("address", text);
  std::vector<std::string> entries(s.entries().begin(), s.entries().end());
  if (!entries.empty()) facts.add("entries", printable(join(entries, " ")) + " lead to it as before");
}

}  // namespace

void print_summary(const Screen& screen, const local::Summary& s, bool verbose) {
  screen.line(
      screen.paint(Colour::kBold, fmt::format("{} now runs on {}", printable(s.container()), printable(s.to()))));
  constexpr size_t kLabel = 7;
  {
    Facts facts(screen, kLabel);
    facts.add("total", ms(s.total_ms()));
    facts.add("gap", ms(s.frozen_ms()) + ", source stopped until destination runs");
  }
  print_parts(screen, s.gap_parts());
  Facts facts(screen, kLabel);
  std::string kinds = bytes_by_kind(s.bytes_memory(), s.bytes_rootfs(), s.bytes_volumes(), s.bytes_image());
  facts.add("sent", format_bytes(s.bytes_sent()) + (kinds.empty() ? "" : ": " + kinds));
  if (!s.mode().empty()) {
    std::string how = printable(s.mode());
    if (s.rounds() > 0)
      how += fmt::format(", {} rounds, {} changed in the last", s.rounds(), format_bytes(s.bytes_last_round()));
    if (s.throttle_percent() > 0) how += fmt::format(", slowed down by {} %", s.throttle_percent());
    facts.add("memory", how);
  }
  if (s.packets_held() > 0 || s.packets_dropped() > 0)
    facts.add("packets", fmt::format("{} held and delivered, {} dropped", s.packets_held(), s.packets_dropped()));
  add_addresses(facts, s);
  facts.add("source",
            fmt::format("{} {}", s.source_kept() ? "kept, stopped, on" : "removed from", printable(s.from())));
  if (verbose) {
    if (s.transfer_ms_at_link_rate() > 0)
      facts.add("link", fmt::format("these bytes take {} at the measured rate", ms(s.transfer_ms_at_link_rate())));
    for (const local::Part& part : s.total_parts())
      facts.add(printable(part.name()), fmt::format("{:.1f} ms", part.ms()));
  }
  facts.add("move", printable(s.move_id()));
  for (const std::string& warning : s.warnings()) facts.add("warning", printable_lines(warning));
}

void print_failure(const Screen& screen, const local::MoveEvent& event, const std::string& what) {
  const local::FailureEvent& f = event.failure();
  bool cancelled = outcome_of(f) == Outcome::kCancelled;
  std::string in = f.phase().empty() ? "" : fmt::format(" in phase {}", printable(f.phase()));
  screen.line(screen.paint(cancelled ? Colour::kYellow : Colour::kRed,
                           fmt::format("transship: {} {}{}", what, cancelled ? "was cancelled" : "failed", in)));
  print_indented(screen, "  why:    ", f.message());
  print_indented(screen, "  do:     ", f.remedy());
  std::vector<std::string> source;
  if (f.source_running()) source.emplace_back("running");
  if (!f.source_state().empty()) source.push_back(f.source_state());
  print_indented(screen, "  source: ", join(source, "; "));
  if (f.committed()) screen.line("  It runs on the destination; only cleaning up failed.");
  if (!event.move_id().empty()) screen.line("  more:   transship show " + printable(event.move_id()));
}

void print_error(const Screen& screen, const Error& error) {
  print_indented(screen, "transship: ", error.message());
  print_indented(screen, "  do: ", error.remedy());
}

void print_moves(const Screen& screen, const local::MovesReply& reply) {
  Table table({{"ID", Fit::kWhole},
               {"CONTAINER", Fit::kCutEnd, 10},
               {"FROM", Fit::kCutEnd, 6},
               {"TO", Fit::kCutEnd, 6},
               {"STATE"},
               {"STARTED"},
               {"TOTAL", Fit::kWhole, 0, true},
               {"GAP", Fit::kWhole, 0, true}},
              {1, 2, 3});
  for (const local::MoveRecord& m : reply.moves()) {
    bool running = m.state() == "running";
    std::string total = m.ended_unix_ms() > m.started_unix_ms()
                            ? ms(static_cast<uint64_t>(m.ended_unix_ms() - m.started_unix_ms()))
                            : "-";
    // On a terminal the columns are worth more than the year and the seconds.
    std::string started = format_time(m.started_unix_ms());
    if (screen.width() > 0 && started.size() == 19) started = started.substr(5, 11);
    table.row({{printable(m.move_id())},
               {printable(m.container())},
               {printable(m.from())},
               {printable(m.to())},
               {running && !m.phase().empty() ? printable(m.phase()) : printable(m.state()), move_colour(m.state())},
               {started},
               {total},
               {m.has_summary() ? ms(m.summary().frozen_ms()) : "-"}});
  }
  table.print(screen);
}

void print_move(const Screen& screen, const local::ShowReply& reply) {
  const local::MoveRecord& m = reply.move();
  screen.line(fmt::format("move {}", printable(m.move_id())));
  {
    Facts facts(screen);
    facts.add("container", printable(m.container()));
    facts.add("from", printable(m.from()) + (m.role() == "source" ? " (this node)" : ""));
    facts.add("to", printable(m.to()) + (m.role() == "destination" ? " (this node)" : ""));
    facts.add("state", printable(m.state()) + (m.phase().empty() ? "" : ", phase " + printable(m.phase())));
    facts.add("started", format_time(m.started_unix_ms()));
    if (m.ended_unix_ms() > 0) facts.add("ended", format_time(m.ended_unix_ms()));
    facts.add("error", printable_lines(m.error()));
    for (const local::MoveEvent& event : reply.events()) {
      facts.add("do", printable_lines(event.failure().remedy()));
      facts.add("source", printable_lines(event.failure().source_state()));
    }
  }
  if (!reply.explanation().empty()) {
    screen.line("");
    for (const auto& line : wrap(printable_lines(reply.explanation()), screen.width())) screen.line(line);
    screen.line("");
  }
  print_events(screen, reply);
  if (m.has_summary()) print_summary(screen, m.summary(), true);
}

void print_peers(const Screen& screen, const local::PeersReply& reply) {
  Table table({{"NAME"}, {"ADDRESS"}, {"TUNNEL"}, {"FINGERPRINT"}}, {});
  for (const local::Peer& peer : reply.peers())
    table.row({{printable(peer.name())},
               {peer.address().empty() ? "-" : printable(peer.address())},
               {tunnel_word(peer), peer.tunnel_answers() ? Colour::kGreen : Colour::kNone},
               {printable(peer.fingerprint())}});
  table.print(screen);
}

void print_exposed(const Screen& screen, const local::ExposeReply& reply) {
  const auto& e = reply.exposure();
  screen.line(fmt::format("{}:{}/{} leads to {} port {}", printable(e.node()), e.port(), printable(e.protocol()),
                          printable(e.container()), e.container_port()));
}

void print_exposure_removed(const Screen& screen, const local::ExposeRemoveRequest& request,
                            const local::ExposeRemoveReply& reply) {
  auto what = fmt::format("{}:{}/{}", request.node(), request.port(), request.protocol());
  if (!request.container().empty()) what = fmt::format("{} behind {}", request.container(), what);
  screen.line(reply.draining() ? what + " gets no new requests, and goes when those that run have ended, within 30 s"
                               : what + " is exposed no more");
}

void print_exposures(const Screen& screen, const local::ExposuresReply& reply) {
  Table table({{"ENTRY"}, {"CONTAINER"}, {"PORT"}, {"HOME"}, {"IS ON"}, {"STATE"}}, {});
  for (const local::Exposure& e : reply.exposures())
    table.row({{fmt::format("{}:{}/{}", printable(e.node()), e.port(), printable(e.protocol()))},
               {printable(e.container())},
               {std::to_string(e.container_port())},
               {printable(e.home())},
               {e.place().empty() ? "-" : printable(e.place())},
               {printable(e.state())}});
  table.print(screen);
}

void print_network_check(const Screen& screen, const local::NetworkCheckReply& reply) {
  if (reply.containers_size() > 0) {
    Table table({{"CONTAINER"}, {"ADDRESSES"}, {"WHERE"}}, {});
    for (const local::MovedContainer& c : reply.containers()) {
      std::vector<std::string> addresses(c.addresses().begin(), c.addresses().end());
      table.row({{printable(c.name())},
                 {printable(join(addresses, " "))},
                 {(c.away() ? "away, on " : "here, at home on ") + printable(c.peer())}});
    }
    table.print(screen);
  }
  for (const auto& one : reply.missing()) screen.line("missing: " + printable(one));
  for (const auto& one : reply.extra()) screen.line("too much: " + printable(one));
  bool differs = reply.missing_size() + reply.extra_size() > 0;
  if (!differs) screen.line("the kernel has what it should have");
  if (reply.repaired()) screen.line("put right");
  if (differs && !reply.repaired()) screen.line("transship network check --repair puts it right");
}

void print_peer_check(const Screen& screen, const local::PeerCheckReply& reply) {
  screen.line(fmt::format("{} at {} answers and has the pinned key", printable(reply.peer().name()),
                          printable(reply.peer().address())));
  Facts facts(screen);
  facts.add("round trip", fmt::format("{:.2f} ms", reply.rtt_ms()));
  facts.add("bandwidth", format_bit_rate(reply.bits_per_second()) + " measured");
  facts.add("clock", fmt::format("{:+.1f} ms from ours", reply.clock_offset_ms()));
  facts.add("protocol", fmt::format("version {}", reply.protocol_version()));
  if (reply.has_tunnel_rtt_ms())
    facts.add("tunnel",
              fmt::format("{} answers in {:.2f} ms", printable(reply.peer().tunnel_address()), reply.tunnel_rtt_ms()));
  else if (!reply.peer().tunnel_problem().empty())
    facts.add("tunnel", "no: " + printable_lines(reply.peer().tunnel_problem()));
  print_facts(facts, reply.facts());
}

void print_node(const Screen& screen, const local::InfoReply& reply) {
  screen.line(fmt::format("node {}", printable(reply.facts().node())));
  // Whole, however long: it is there to be copied and compared.
  screen.line("  fingerprint  " + printable(reply.fingerprint()));
  Facts facts(screen);
  facts.add("listens on", printable(reply.listen_address()));
  facts.add("moves", fmt::format("{} running", reply.moves_running()));
  print_tunnel(facts, reply.tunnel());
  facts.add("names", names_sentence(reply.names()));
  print_facts(facts, reply.facts());
}

}  // namespace transship::cli
