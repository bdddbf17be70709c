#include "cli/text_render.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "cli/fake_daemon.h"

namespace transship::cli {
namespace {

local::ContainersReply two_containers() {
  local::ContainersReply reply;
  local::Container& redis = *reply.add_containers();
  redis.set_engine("podman");
  redis.set_id("3f2a9c1d8e7b6a5f4c3d2e1f");
  redis.set_name("redis");
  redis.set_image("registry.example.org:5000/library/redis:7.2");
  redis.set_state("running");
  redis.set_memory_bytes(268435456);
  redis.add_addresses("10.88.0.5");
  redis.set_movable(true);
  local::Container& db = *reply.add_containers();
  db.set_engine("runc");
  db.set_id("db");
  db.set_name("db\x1b[2J");
  db.set_state("running");
  db.set_why_not("process 41 uses io_uring, which CRIU cannot save; it has an open /dev/kvm");
  return reply;
}

void expect_narrow(const std::string& text, size_t width) {
  size_t start = 0;
  while (start < text.size()) {
    size_t end = text.find('\n', start);
    EXPECT_LE(display_width(text.substr(start, end - start)), width) << text.substr(start, end - start);
    start = end + 1;
  }
}

TEST(PrintContainers, On80Columns) {
  Captured out(terminal80());
  print_containers(out.screen, two_containers());
  EXPECT_EQ(out.text,
            "ENGINE  NAME       ID         IMAGE       STATE       MEMORY  ADDRESS    MOVABLE\n"
            "podman  redis      3f2a9c1d8  …redis:7.2  running  256.0 MiB  10.88.0.5  yes\n"
            "runc    db\\x1b[2J  db                     running          -  -          no\n"
            "        not movable: process 41 uses io_uring, which CRIU cannot save; it has an\n"
            "        open /dev/kvm\n")
      << out.text;
  expect_narrow(out.text, 80);
}

TEST(PrintContainers, InAPipeEachIsOneWholeLine) {
  Captured out;
  print_containers(out.screen, two_containers());
  EXPECT_NE(out.text.find("registry.example.org:5000/library/redis:7.2"), std::string::npos);
  EXPECT_NE(out.text.find("no: process 41 uses io_uring, which CRIU cannot save; it has an open /dev/kvm\n"),
            std::string::npos);
  EXPECT_EQ(std::ranges::count(out.text, '\n'), 3);
}

local::PlanReply blocked_plan() {
  local::PlanReply plan;
  plan.set_container("podman:redis");
  auto row = [&](const char* check, peer::Verdict verdict, const char* found, const char* remedy) {
    peer::CheckRow& r = *plan.add_rows();
    r.set_check(check);
    r.set_verdict(verdict);
    r.set_found(found);
    r.set_remedy(remedy);
  };
  row("connectivity", peer::VERDICT_OK, "answers in 0.4 ms", "");
  row("kernel", peer::VERDICT_WARN, "6.12 here, 6.8 there", "boot the same kernel on both");
  row("io-uring", peer::VERDICT_BLOCK,
      "process 41 (worker) holds an io_uring with 3 requests in flight, which CRIU 4.2 cannot save",
      "turn it off in the program: io_uring_disabled=1");
  plan.set_blocked(true);
  plan.set_bytes_total(281438618);
  plan.set_bytes_memory(272629760);
  plan.set_bytes_rootfs(1258291);
  plan.set_total_ms(4200);
  plan.set_gap_ms(2410);
  plan.set_rtt_ms(0.4);
  plan.set_bits_per_second(940e6);
  return plan;
}

TEST(PrintPlan, RowsRemediesAndPrediction) {
  Captured out(terminal80());
  print_plan(out.screen, blocked_plan(), "azure");
  EXPECT_EQ(out.text,
            "VERDICT  CHECK         FOUND\n"
            "ok       connectivity  answers in 0.4 ms\n"
            "warns    kernel        6.12 here, 6.8 there\n"
            "                       do: boot the same kernel on both\n"
            "blocks   io-uring      process 41 (worker) holds an io_uring with 3 requests in\n"
            "                       flight, which CRIU 4.2 cannot save\n"
            "                       do: turn it off in the program: io_uring_disabled=1\n"
            "\n"
            "Prediction for podman:redis to azure\n"
            "  bytes  268.4 MiB (memory 260.0 MiB, files 1.2 MiB)\n"
            "  link   940 Mbit/s measured, 0.4 ms round trip\n"
            "  total  4.20 s\n"
            "  gap    2.41 s\n"
            "3 checks: 1 ok, 1 warn, 1 block. podman:redis to azure is blocked.\n")
      << out.text;
}

TEST(PrintSummary, GapByItsParts) {
  Captured out(terminal80());
  local::Summary summary = summary_event().summary();
  summary.add_warnings("the image stays on aws");
  print_summary(out.screen, summary, false);
  EXPECT_EQ(out.text,
            "podman:redis now runs on azure\n"
            "  total    4.12 s\n"
            "  gap      2.38 s, source stopped until destination runs\n"
            "           freeze       1.2 ms\n"
            "           transfer  1950.0 ms\n"
            "           restore    310.5 ms\n"
            "  sent     268.4 MiB: memory 260.0 MiB, files 1.2 MiB\n"
            "  packets  14 held and delivered, 0 dropped\n"
            "  source   removed from aws\n"
            "  move     m1\n"
            "  warning  the image stays on aws\n")
      << out.text;
}

TEST(PrintSummary, SaysAnAddressOnlyWhenItIsNew) {
  local::Summary summary = summary_event().summary();
  summary.add_old_addresses("10.88.0.30");
  summary.add_new_addresses("10.88.0.30");
  Captured same(terminal80());
  print_summary(same.screen, summary, false);
  EXPECT_EQ(same.text.find("address"), std::string::npos);
  summary.set_new_addresses(0, "10.92.0.2");
  summary.set_connections_closed(3);
  summary.add_entries("azure:7379/tcp");
  Captured out(terminal80());
  print_summary(out.screen, summary, false);
  EXPECT_NE(out.text.find("  address  10.92.0.2 instead of 10.88.0.30, 3 connections closed\n"), std::string::npos)
      << out.text;
  EXPECT_NE(out.text.find("  entries  azure:7379/tcp lead to it as before\n"), std::string::npos) << out.text;
}

TEST(PrintFailure, SaysWhyWhatToDoAndHowTheSourceIs) {
  Captured err(terminal80());
  local::MoveEvent event = failure_event("unavailable", "dump", true);
  event.mutable_failure()->set_message(
      "criu dump of podman:redis: CRIU refused:\n(00.012345) Error (criu/files.c:12): Can't dump \x1b[31mfile");
  event.mutable_failure()->set_remedy("close the file");
  event.mutable_failure()->set_source_state("thawed, its network is open again");
  print_failure(err.screen, event, "move of redis to azure");
  EXPECT_EQ(err.text,
            "transship: move of redis to azure failed in phase dump\n"
            "  why:    criu dump of podman:redis: CRIU refused:\n"
            "          (00.012345) Error (criu/files.c:12): Can't dump \\x1b[31mfile\n"
            "  do:     close the file\n"
            "  source: running; thawed, its network is open again\n"
            "  more:   transship show m1\n")
      << err.text;
}

TEST(PrintFailure, CancelledAndCommittedReadDifferently) {
  Captured err;
  print_failure(err.screen, failure_event("cancelled", "transfer", true), "move of redis to azure");
  EXPECT_NE(err.text.find("was cancelled in phase transfer"), std::string::npos);
  Captured after;
  local::MoveEvent event = failure_event("unavailable", "cleanup", false);
  event.mutable_failure()->set_committed(true);
  print_failure(after.screen, event, "move of redis to azure");
  EXPECT_NE(after.text.find("It runs on the destination; only cleaning up failed."), std::string::npos);
  EXPECT_EQ(after.text.find("source: running"), std::string::npos);
}

TEST(PrintMoves, On80Columns) {
  ::setenv("TZ", "UTC", 1);
  local::MovesReply reply;
  local::MoveRecord& done = *reply.add_moves();
  done.set_move_id("1f6c0a2b");
  done.set_container("podman:redis");
  done.set_from("aws");
  done.set_to("azure");
  done.set_state("done");
  done.set_started_unix_ms(1'763'823'168'000);
  done.set_ended_unix_ms(1'763'823'172'120);
  done.mutable_summary()->set_frozen_ms(2380);
  local::MoveRecord& running = *reply.add_moves();
  running.set_move_id("77aa");
  running.set_container("runc:cache");
  running.set_from("aws");
  running.set_to("openstack");
  running.set_state("running");
  running.set_phase("transfer");
  running.set_started_unix_ms(1'763'823'268'000);
  Captured out(terminal80());
  print_moves(out.screen, reply);
  EXPECT_EQ(out.text,
            "ID        CONTAINER     FROM  TO         STATE     STARTED       TOTAL     GAP\n"
            "1f6c0a2b  podman:redis  aws   azure      done      11-22 14:52  4.12 s  2.38 s\n"
            "77aa      runc:cache    aws   openstack  transfer  11-22 14:54       -       -\n")
      << out.text;
  expect_narrow(out.text, 80);
}

TEST(PrintMoves, HowItEndedHasItsColour) {
  for (auto [state, colour] : {std::pair{"done", "32m"}, {"failed", "31m"}, {"in doubt", "31m"}}) {
    local::MovesReply reply;
    reply.add_moves()->set_state(state);
    Captured out({.terminal = true, .colours = true, .width = 80});
    print_moves(out.screen, reply);
    EXPECT_NE(out.text.find(std::string("\x1b[") + colour + state), std::string::npos) << out.text;
  }
}

TEST(PrintMove, AFailureSaysWhatToDo) {
  local::ShowReply reply;
  reply.mutable_move()->set_move_id("m1");
  reply.mutable_move()->set_container("podman:redis");
  reply.mutable_move()->set_error("CRIU refused");
  local::MoveEvent& event = *reply.add_events() = failure_event("internal", "dump", true);
  event.mutable_failure()->set_remedy("close the file");
  event.mutable_failure()->set_source_state("thawed, its network is open again");
  Captured out;
  print_move(out.screen, reply);
  EXPECT_NE(out.text.find("do         close the file\n"), std::string::npos) << out.text;
  EXPECT_NE(out.text.find("source     thawed, its network is open again\n"), std::string::npos) << out.text;
}

TEST(PrintPeers, FingerprintsStayWhole) {
  local::PeersReply reply;
  local::Peer& peer = *reply.add_peers();
  peer.set_name("azure");
  peer.set_address("10.20.0.2:7601");
  peer.set_fingerprint(std::string(64, 'a'));
  Captured out(terminal80());
  print_peers(out.screen, reply);
  EXPECT_EQ(out.text,
            "NAME   ADDRESS         TUNNEL  FINGERPRINT\n"
            "azure  10.20.0.2:7601  -       " +
                std::string(64, 'a') + "\n");
}

TEST(PrintPeers, HowTheTunnelIs) {
  local::PeersReply reply;
  auto add = [&](const char* name, std::optional<uint64_t> age, bool answers) {
    local::Peer& peer = *reply.add_peers();
    peer.set_name(name);
    peer.set_tunnel_address("fd80:ebe5:8657::1");
    if (age) peer.set_tunnel_handshake_age_s(*age);
    peer.set_tunnel_answers(answers);
  };
  add("aws", 12, true);
  add("azure", std::nullopt, false);
  add("openstack", 310, false);
  Captured out;
  print_peers(out.screen, reply);
  EXPECT_NE(out.text.find("answers"), std::string::npos) << out.text;
  EXPECT_NE(out.text.find("no answer yet"), std::string::npos) << out.text;
  EXPECT_NE(out.text.find("silent for 5 min 10 s"), std::string::npos) << out.text;
}

TEST(PrintNode, TheTunnelOrWhyThereIsNone) {
  local::InfoReply reply;
  reply.mutable_tunnel()->set_backend("none: no program wg");
  Captured none;
  print_node(none.screen, reply);
  EXPECT_NE(none.text.find("none: no program wg\n"), std::string::npos) << none.text;
  reply.mutable_tunnel()->set_backend("kernel");
  reply.mutable_tunnel()->set_interface("ts");
  reply.mutable_tunnel()->set_port(7441);
  reply.mutable_tunnel()->set_mtu(1420);
  reply.mutable_tunnel()->set_address("fd80:ebe5:8657::1");
  Captured out;
  print_node(out.screen, reply);
  EXPECT_NE(out.text.find("kernel, ts0…, UDP ports from 7441 on, MTU 1420\n"), std::string::npos) << out.text;
  EXPECT_NE(out.text.find("tunnel address  fd80:ebe5:8657::1\n"), std::string::npos) << out.text;
}

TEST(PrintNetworkCheck, WhatDiffersAndWhatToDo) {
  local::NetworkCheckReply reply;
  Captured fine;
  print_network_check(fine.screen, reply);
  EXPECT_EQ(fine.text, "the kernel has what it should have\n");
  auto& c = *reply.add_containers();
  c.set_name("redis");
  c.add_addresses("10.88.0.3");
  c.set_away(true);
  c.set_peer("azure");
  reply.add_missing("route to 10.88.0.3 through ts0");
  Captured out;
  print_network_check(out.screen, reply);
  EXPECT_NE(out.text.find("away, on azure"), std::string::npos) << out.text;
  EXPECT_NE(out.text.find("missing: route to 10.88.0.3 through ts0\n"), std::string::npos) << out.text;
  EXPECT_NE(out.text.find("--repair puts it right"), std::string::npos) << out.text;
  reply.set_repaired(true);
  Captured repaired;
  print_network_check(repaired.screen, reply);
  EXPECT_NE(repaired.text.find("put right\n"), std::string::npos) << repaired.text;
}

TEST(PrintPeerCheck, WhetherItAnswersThroughTheTunnel) {
  local::PeerCheckReply reply;
  reply.mutable_peer()->set_tunnel_address("fd80:ebe5:8657::1");
  reply.set_tunnel_rtt_ms(0.714);
  Captured out;
  print_peer_check(out.screen, reply);
  EXPECT_NE(out.text.find("fd80:ebe5:8657::1 answers in 0.71 ms\n"), std::string::npos) << out.text;
  reply.clear_tunnel_rtt_ms();
  reply.mutable_peer()->set_tunnel_problem("no answer");
  Captured silent;
  print_peer_check(silent.screen, reply);
  EXPECT_NE(silent.text.find("no: no answer\n"), std::string::npos) << silent.text;
}

TEST(PrintError, RemedyInItsOwnLine) {
  Captured err;
  print_error(err.screen, Error(Errc::kNotFound, "no container \"x\"").with_remedy("see transship ps"));
  EXPECT_EQ(err.text, "transship: no container \"x\"\n  do: see transship ps\n");
}

TEST(PrintExposureRemoved, WhatEndsAndWhatDrains) {
  local::ExposeRemoveRequest request;
  request.set_node("aws");
  request.set_port(80);
  request.set_protocol("http");
  local::ExposeRemoveReply reply;
  Captured ended;
  print_exposure_removed(ended.screen, request, reply);
  EXPECT_EQ(ended.text, "aws:80/http is exposed no more\n");
  request.set_container("web1");
  reply.set_draining(true);
  Captured draining;
  print_exposure_removed(draining.screen, request, reply);
  EXPECT_TRUE(draining.text.starts_with("web1 behind aws:80/http gets no new requests")) << draining.text;
}

}  // namespace
}  // namespace transship::cli
