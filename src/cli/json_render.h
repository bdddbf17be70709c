// One JSON object per line, each with a message_type: a contract with scripts (docs/json.md). Fields may be added.
#pragma once
#include <string>

#include "cli/exit_code.h"
#include "proto/local.pb.h"

namespace transship::cli {

// Every function gives one or more whole lines, each with its line break.
std::string json_lines(const local::ContainersReply& reply);
std::string json_lines(const local::PlanReply& plan, const std::string& to);
std::string json_lines(const local::MoveEvent& event, const std::string& to);
std::string json_lines(const local::MovesReply& reply);
std::string json_lines(const local::ShowReply& reply);
std::string json_lines(const local::ResolveReply& reply);
std::string json_lines(const local::PeersReply& reply);
std::string json_lines(const local::PeerAddReply& reply);
std::string json_lines(const local::PeerCheckReply& reply);
std::string json_lines(const local::NetworkCheckReply& reply);
std::string json_lines(const local::NamesReply& reply);
std::string json_lines(const local::ExposeReply& reply);
std::string json_lines(const local::ExposuresReply& reply);
std::string json_lines(const local::InfoReply& reply);
std::string json_error(const Error& error, Outcome outcome);
// `state`: "requested", "too_late", "failed"; `detail` may be empty.
std::string json_cancel(const std::string& move_id, const std::string& state, const std::string& detail);
std::string json_detached(const std::string& move_id);
std::string json_peer_removed(const std::string& name);
std::string json_exposure_removed(const local::ExposeRemoveRequest& request, const local::ExposeRemoveReply& reply);
std::string json_version(const std::string& client, const std::string& daemon);

}  // namespace transship::cli
