#include "cli/json_render.h"

#include <nlohmann/json.hpp>
#include <utility>

namespace transship::cli {
namespace {

using Json = nlohmann::ordered_json;

Json message(const char* type) { return Json{{"message_type", type}}; }

std::string line(const Json& json) {
  return json.dump(-1, ' ', false, nlohmann::detail::error_handler_t::replace) + "\n";
}

const char* verdict_name(peer::Verdict verdict) {
  switch (verdict) {
    case peer::VERDICT_OK: return "ok";
    case peer::VERDICT_WARN: return "warns";
    case peer::VERDICT_BLOCK: return "blocks";
    default: return "unknown";
  }
}

const char* state_name(local::PhaseState state) {
  switch (state) {
    case local::PHASE_STARTED: return "started";
    case local::PHASE_DONE: return "done";
    case local::PHASE_FAILED: return "failed";
    case local::PHASE_UNDONE: return "undone";
    default: return "unknown";
  }
}

// Objects with the parts as keys, in the order in which they came.
Json parts(const google::protobuf::RepeatedPtrField<local::Part>& list) {
  Json out = Json::object();
  for (const local::Part& part : list) out[part.name()] = part.ms();
  return out;
}

template <class List>
Json strings(const List& list) {
  return Json(std::vector<std::string>(list.begin(), list.end()));
}

Json names_fields(const local::NamesState& state) {
  return Json{{"server", state.server()},
              {"domain", state.domain()},
              {"address", state.address()},
              {"resolver", state.resolver()},
              {"remedy", state.remedy()}};
}

Json node_fields(const peer::NodeFacts& facts) {
  return Json{{"node", facts.node()},
              {"program_version", facts.program_version()},
              {"kernel", facts.kernel()},
              {"architecture", facts.architecture()},
              {"criu_version", facts.criu_version()},
              {"runc_version", facts.runc_version()},
              {"cgroup_mode", facts.cgroup_mode()},
              {"cpus", facts.cpus()},
              {"load_1m", facts.load_1m()},
              {"memory_total", facts.memory_total()},
              {"memory_available", facts.memory_available()},
              {"images_free", facts.images_free()},
              {"storage_free", facts.storage_free()},
              {"storage_free_inodes", facts.storage_free_inodes()},
              {"clock_unix_ms", facts.clock_unix_ms()},
              {"engines", strings(facts.engines())},
              {"memory_tracker", facts.memory_tracker()},
              {"memory_dump", facts.memory_dump()},
              {"dump_shortcuts", facts.dump_shortcuts()},
              {"arbiter", facts.arbiter().empty() ? Json(nullptr) : Json(facts.arbiter())},
              {"arbiter_error", facts.arbiter_error()},
              {"missing", strings(facts.missing())}};
}

void add_summary(Json& json, const local::Summary& summary) {
  json["move_id"] = summary.move_id();
  json["container"] = summary.container();
  json["from"] = summary.from();
  json["to"] = summary.to();
  json["total_ms"] = summary.total_ms();
  json["gap_ms"] = summary.frozen_ms();
  json["gap_parts_ms"] = parts(summary.gap_parts());
  json["total_parts_ms"] = parts(summary.total_parts());
  json["bytes_sent"] = summary.bytes_sent();
  json["bytes_memory"] = summary.bytes_memory();
  json["bytes_rootfs"] = summary.bytes_rootfs();
  json["bytes_volumes"] = summary.bytes_volumes();
  json["bytes_image"] = summary.bytes_image();
  json["transfer_ms_at_link_rate"] = summary.transfer_ms_at_link_rate();
  json["packets_held"] = summary.packets_held();
  json["packets_dropped"] = summary.packets_dropped();
  json["source_kept"] = summary.source_kept();
  json["mode"] = summary.mode();
  json["rounds"] = summary.rounds();
  json["volume_rounds"] = summary.volume_rounds();
  json["predicted_gap_ms"] = summary.predicted_gap_ms();
  json["pages_sent"] = summary.pages_sent();
  json["pages_zero"] = summary.pages_zero();
  json["bytes_last_round"] = summary.bytes_last_round();
  json["compression"] = summary.compression();
  json["throttle_percent"] = summary.throttle_percent();
  json["dump_method"] = summary.dump_method();
  json["dump_shortcuts"] = strings(summary.dump_shortcuts());
  json["resident_bytes"] = summary.resident_bytes();
  json["old_addresses"] = strings(summary.old_addresses());
  json["new_addresses"] = strings(summary.new_addresses());
  json["connections_closed"] = summary.connections_closed();
  json["entries"] = strings(summary.entries());
  json["warnings"] = strings(summary.warnings());
}

void add_failure(Json& json, const local::FailureEvent& failure) {
  json["code"] = failure.code();
  json["message"] = failure.message();
  json["remedy"] = failure.remedy();
  json["phase"] = failure.phase();
  json["source_running"] = failure.source_running();
  json["source_state"] = failure.source_state();
  json["committed"] = failure.committed();
  json["exit_code"] = exit_code(outcome_of(failure));
}

void add_event_time(Json& json, const local::MoveEvent& event) {
  json["move_id"] = event.move_id();
  json["time_unix_ms"] = event.unix_ms();
}

Json phase_message(const local::MoveEvent& event) {
  const local::PhaseEvent& phase = event.phase();
  Json json = message("phase");
  add_event_time(json, event);
  json["phase"] = phase.name();
  json["state"] = state_name(phase.state());
  json["detail"] = phase.detail();
  json["elapsed_ms"] = phase.elapsed_ms();
  return json;
}

Json progress_message(const local::MoveEvent& event) {
  const local::ProgressEvent& progress = event.progress();
  Json json = message("progress");
  add_event_time(json, event);
  json["phase"] = progress.phase();
  json["bytes_done"] = progress.bytes_done();
  json["bytes_total"] = progress.bytes_total() > 0 ? Json(progress.bytes_total()) : Json(nullptr);
  json["bytes_per_second"] = progress.bytes_per_second();
  json["eta_ms"] = progress.eta_ms() > 0 ? Json(progress.eta_ms()) : Json(nullptr);
  if (progress.round() > 0) {
    json["round"] = progress.round();
    json["dirty_bytes_per_second"] = progress.dirty_bytes_per_second();
    json["predicted_gap_ms"] = progress.predicted_gap_ms();
    json["decision"] = progress.decision();
  }
  return json;
}

Json move_message(const local::MoveRecord& move) {
  Json json = message("move");
  json["move_id"] = move.move_id();
  json["container"] = move.container();
  json["from"] = move.from();
  json["to"] = move.to();
  json["role"] = move.role();
  json["state"] = move.state();
  json["phase"] = move.phase();
  json["started_unix_ms"] = move.started_unix_ms();
  json["ended_unix_ms"] = move.ended_unix_ms() > 0 ? Json(move.ended_unix_ms()) : Json(nullptr);
  json["error"] = move.error();
  if (move.has_summary()) {
    json["total_ms"] = move.summary().total_ms();
    json["gap_ms"] = move.summary().frozen_ms();
    json["bytes_sent"] = move.summary().bytes_sent();
  }
  return json;
}

void add_peer(Json& json, const local::Peer& peer) {
  json["name"] = peer.name();
  json["address"] = peer.address();
  json["fingerprint"] = peer.fingerprint();
}

void add_tunnel(Json& json, const local::Peer& peer) {
  json["tunnel_address"] = peer.tunnel_address().empty() ? Json(nullptr) : Json(peer.tunnel_address());
  json["tunnel_handshake_age_s"] =
      peer.has_tunnel_handshake_age_s() ? Json(peer.tunnel_handshake_age_s()) : Json(nullptr);
  json["tunnel_answers"] = peer.tunnel_answers();
  json["tunnel_interface"] = peer.tunnel_interface();
  json["tunnel_problem"] = peer.tunnel_problem();
}

std::string exposure_line(const local::Exposure& e) {
  Json json = message("exposure");
  json["container"] = e.container();
  json["node"] = e.node();
  json["port"] = e.port();
  json["protocol"] = e.protocol();
  json["container_port"] = e.container_port();
  json["home"] = e.home();
  json["place"] = e.place().empty() ? Json(nullptr) : Json(e.place());
  json["addresses"] = strings(e.addresses());
  json["state"] = e.state();
  json["health"] = e.health().empty() ? Json(nullptr) : Json(e.health());
  return line(json);
}

Json tunnel_fields(const local::Tunnel& tunnel) {
  return Json{{"backend", tunnel.backend()}, {"interface", tunnel.interface()}, {"public_key", tunnel.public_key()},
              {"address", tunnel.address()}, {"port", tunnel.port()},           {"mtu", tunnel.mtu()}};
}

}  // namespace

std::string json_lines(const local::ContainersReply& reply) {
  std::string out;
  for (const local::Container& c : reply.containers()) {
    Json json = message("container");
    json["engine"] = c.engine();
    json["id"] = c.id();
    json["name"] = c.name();
    json["image"] = c.image();
    json["state"] = c.state();
    json["memory_bytes"] = c.memory_bytes();
    json["addresses"] = strings(c.addresses());
    json["movable"] = c.movable();
    json["why_not"] = c.why_not();
    out += line(json);
  }
  for (const std::string& error : reply.engine_errors()) {
    Json json = message("engine_error");
    json["message"] = error;
    out += line(json);
  }
  return out;
}

std::string json_lines(const local::PlanReply& plan, const std::string& to) {
  std::string out;
  for (const peer::CheckRow& row : plan.rows()) {
    Json json = message("plan_row");
    json["check"] = row.check();
    json["verdict"] = verdict_name(row.verdict());
    json["found"] = row.found();
    json["remedy"] = row.remedy();
    out += line(json);
  }
  Json json = message("plan");
  json["container"] = plan.container();
  json["to"] = to;
  json["blocked"] = plan.blocked();
  json["total_ms"] = plan.total_ms();
  json["gap_ms"] = plan.gap_ms();
  json["bytes_total"] = plan.bytes_total();
  json["bytes_memory"] = plan.bytes_memory();
  json["bytes_rootfs"] = plan.bytes_rootfs();
  json["bytes_volumes"] = plan.bytes_volumes();
  json["bytes_image"] = plan.bytes_image();
  bool measured = plan.bits_per_second() > 0;
  json["rtt_ms"] = measured ? Json(plan.rtt_ms()) : Json();
  json["bits_per_second"] = measured ? Json(plan.bits_per_second()) : Json();
  return out + line(json);
}

std::string json_lines(const local::MoveEvent& event, const std::string& to) {
  switch (event.kind_case()) {
    case local::MoveEvent::kPhase: return line(phase_message(event));
    case local::MoveEvent::kProgress: return line(progress_message(event));
    case local::MoveEvent::kPlan: return json_lines(event.plan(), to);
    case local::MoveEvent::kSummary: {
      Json json = message("summary");
      add_event_time(json, event);
      add_summary(json, event.summary());
      return line(json);
    }
    case local::MoveEvent::kFailure: {
      Json json = message("error");
      add_event_time(json, event);
      add_failure(json, event.failure());
      return line(json);
    }
    case local::MoveEvent::KIND_NOT_SET: break;
  }
  return {};  // of a newer daemon
}

std::string json_lines(const local::MovesReply& reply) {
  std::string out;
  for (const local::MoveRecord& move : reply.moves()) out += line(move_message(move));
  return out;
}

std::string json_lines(const local::ShowReply& reply) {
  Json move = move_message(reply.move());
  move["explanation"] = reply.explanation();
  std::string out = line(move);
  for (const local::MoveEvent& event : reply.events()) out += json_lines(event, reply.move().to());
  return out;
}

std::string json_lines(const local::ResolveReply& reply) {
  Json json = message("resolved");
  json["explanation"] = reply.explanation();
  json["risk"] = reply.risk();
  return line(json);
}

std::string json_lines(const local::PeersReply& reply) {
  std::string out;
  for (const local::Peer& peer : reply.peers()) {
    Json json = message("peer");
    add_peer(json, peer);
    add_tunnel(json, peer);
    out += line(json);
  }
  return out;
}

std::string json_lines(const local::PeerAddReply& reply) {
  Json json = message("peer_added");
  add_peer(json, reply.peer());
  json["existed"] = reply.existed();
  return line(json);
}

std::string json_lines(const local::NetworkCheckReply& reply) {
  std::string out;
  for (const local::MovedContainer& container : reply.containers()) {
    Json json = message("moved_container");
    json["name"] = container.name();
    json["addresses"] = container.addresses();
    json["away"] = container.away();
    json["peer"] = container.peer();
    out += line(json);
  }
  Json json = message("network_check");
  json["missing"] = reply.missing();
  json["extra"] = reply.extra();
  json["repaired"] = reply.repaired();
  return out + line(json);
}

std::string json_lines(const local::ExposeReply& reply) { return exposure_line(reply.exposure()); }

std::string json_lines(const local::ExposuresReply& reply) {
  std::string out;
  for (const local::Exposure& e : reply.exposures()) out += exposure_line(e);
  return out;
}

std::string json_lines(const local::PeerCheckReply& reply) {
  Json json = message("peer_check");
  add_peer(json, reply.peer());
  add_tunnel(json, reply.peer());
  json["rtt_ms"] = reply.rtt_ms();
  json["bits_per_second"] = reply.bits_per_second();
  json["clock_offset_ms"] = reply.clock_offset_ms();
  json["protocol_version"] = reply.protocol_version();
  json["tunnel_rtt_ms"] = reply.has_tunnel_rtt_ms() ? Json(reply.tunnel_rtt_ms()) : Json(nullptr);
  json["facts"] = node_fields(reply.facts());
  return line(json);
}

std::string json_lines(const local::NamesReply& reply) {
  std::string out;
  for (const local::ContainerName& name : reply.names()) {
    Json json = message("name");
    json["name"] = name.name();
    json["container"] = name.container();
    json["addresses"] = strings(name.addresses());
    json["node"] = name.node();
    json["since_unix_ms"] = name.since_unix_ms();
    json["bare"] = name.bare();
    json["served"] = name.served();
    json["note"] = name.note();
    out += line(json);
  }
  Json json = message("names");
  json.update(names_fields(reply.state()));
  return out + line(json);
}

std::string json_lines(const local::InfoReply& reply) {
  Json json = message("node");
  json["fingerprint"] = reply.fingerprint();
  json["listen_address"] = reply.listen_address();
  json["moves_running"] = reply.moves_running();
  json["tunnel"] = tunnel_fields(reply.tunnel());
  json["names"] = names_fields(reply.names());
  json.update(node_fields(reply.facts()));
  return line(json);
}

std::string json_error(const Error& error, Outcome outcome) {
  Json json = message("error");
  json["code"] = errc_name(error.code());
  json["message"] = error.message();
  json["remedy"] = error.remedy();
  json["exit_code"] = exit_code(outcome);
  return line(json);
}

std::string json_cancel(const std::string& move_id, const std::string& state, const std::string& detail) {
  Json json = message("cancel");
  json["move_id"] = move_id;
  json["state"] = state;
  json["detail"] = detail;
  return line(json);
}

std::string json_detached(const std::string& move_id) {
  Json json = message("detached");
  json["move_id"] = move_id;
  return line(json);
}

std::string json_peer_removed(const std::string& name) {
  Json json = message("peer_removed");
  json["name"] = name;
  return line(json);
}

std::string json_exposure_removed(const local::ExposeRemoveRequest& request, const local::ExposeRemoveReply& reply) {
  Json json = message("exposure_removed");
  json["node"] = request.node();
  json["port"] = request.port();
  json["protocol"] = request.protocol();
  json["container"] = request.container().empty() ? Json(nullptr) : Json(request.container());
  json["draining"] = reply.draining();
  return line(json);
}

std::string json_version(const std::string& client, const std::string& daemon) {
  Json json = message("version");
  json["version"] = client;
  json["daemon_version"] = daemon.empty() ? Json(nullptr) : Json(daemon);
  return line(json);
}

}  // namespace transship::cli
