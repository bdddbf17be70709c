// Answers of the daemon as text for people.
#pragma once
#include <string>

#include "base/result.h"
#include "cli/terminal.h"
#include "proto/local.pb.h"

namespace transship::cli {

void print_containers(const Screen& screen, const local::ContainersReply& reply);
// `all_rows`: also those that are fine.
void print_plan_rows(const Screen& screen, const local::PlanReply& plan, bool all_rows);
void print_plan(const Screen& screen, const local::PlanReply& plan, const std::string& to);
void print_summary(const Screen& screen, const local::Summary& summary, bool verbose);
void print_failure(const Screen& screen, const local::MoveEvent& event, const std::string& what);
void print_error(const Screen& screen, const Error& error);
void print_moves(const Screen& screen, const local::MovesReply& reply);
void print_move(const Screen& screen, const local::ShowReply& reply);
void print_peers(const Screen& screen, const local::PeersReply& reply);
void print_exposed(const Screen& screen, const local::ExposeReply& reply);
void print_exposure_removed(const Screen& screen, const local::ExposeRemoveRequest& request,
                            const local::ExposeRemoveReply& reply);
void print_exposures(const Screen& screen, const local::ExposuresReply& reply);
void print_network_check(const Screen& screen, const local::NetworkCheckReply& reply);
void print_peer_check(const Screen& screen, const local::PeerCheckReply& reply);
void print_node(const Screen& screen, const local::InfoReply& reply);

// "memory 260.0 MiB, files 1.2 MiB"; kinds of zero bytes are left out.
std::string bytes_by_kind(uint64_t memory, uint64_t rootfs, uint64_t volumes, uint64_t image);
// Local time, "2026-11-22 14:52:48".
std::string format_time(int64_t unix_ms);

}  // namespace transship::cli
