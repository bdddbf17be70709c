#include "cli/move_render.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "cli/fake_daemon.h"
#include "cli/json_render.h"

namespace transship::cli {
namespace {

const MoveNames kNames{"redis", "azure"};

TEST(TextRenderer, InALogFileLinesAtStartEndAndEvery5s) {
  Captured out;
  Captured err;
  auto renderer = make_text_renderer(out.screen, err.screen, kNames, Verbosity::kNormal);
  renderer->event(phase_event("transfer", local::PHASE_STARTED, 10'000));
  for (int64_t t = 10'000; t <= 16'000; t += 100) renderer->event(progress_event(t, 100U << 20, 256U << 20));
  renderer->event(phase_event("transfer", local::PHASE_DONE, 17'000, 7000, "4 lanes"));
  EXPECT_EQ(out.text,
            "transfer    started\n"
            "transfer    100.0 MiB of 256.0 MiB  39 %  112.0 MiB/s  1.30 s left\n"
            "transfer    done        7.00 s  4 lanes\n")
      << out.text;
  EXPECT_EQ(err.text, "");
}

TEST(TextRenderer, OnATerminalRunningPhasesAreDrawnAgain) {
  Captured out(terminal80());
  Captured err(terminal80());
  auto renderer = make_text_renderer(out.screen, err.screen, kNames, Verbosity::kNormal);
  renderer->event(phase_event("prepare", local::PHASE_STARTED));
  renderer->event(phase_event("transfer", local::PHASE_STARTED));
  renderer->event(progress_event(2000, 1U << 20, 0));
  renderer->event(progress_event(2050, 2U << 20, 0));  // too soon to draw again
  renderer->event(phase_event("prepare", local::PHASE_DONE, 3000, 50));
  const std::string up = "\x1b[1A\x1b[2K";
  EXPECT_EQ(out.text, "prepare     …\n" + up + "prepare     …\ntransfer    …\n" + up + up +
                          "prepare     …\ntransfer    1.0 MiB  112.0 MiB/s  1.30 s left\n" + up + up +
                          "prepare     done         50 ms\ntransfer    2.0 MiB  112.0 MiB/s  1.30 s left\n")
      << out.text;
}

TEST(TextRenderer, NothingDrawnIsLeftAtTheEnd) {
  Captured out(terminal80());
  Captured err(terminal80());
  {
    auto renderer = make_text_renderer(out.screen, err.screen, kNames, Verbosity::kNormal);
    renderer->event(phase_event("dump", local::PHASE_STARTED));
    renderer->event(failure_event("timeout", "dump", true));
  }
  EXPECT_TRUE(out.text.ends_with("\x1b[1A\x1b[2K")) << out.text;
  EXPECT_NE(err.text.find("failed in phase dump"), std::string::npos);
}

TEST(TextRenderer, QuietSaysOnlyWhatWentWrong) {
  Captured out(terminal80());
  Captured err(terminal80());
  auto renderer = make_text_renderer(out.screen, err.screen, kNames, Verbosity::kQuiet);
  renderer->event(phase_event("transfer", local::PHASE_STARTED));
  renderer->event(progress_event(5000, 1, 2));
  renderer->event(phase_event("transfer", local::PHASE_DONE));
  renderer->event(summary_event());
  EXPECT_EQ(out.text + err.text, "");
  renderer->event(failure_event("timeout", "dump", true));
  EXPECT_NE(err.text, "");
}

TEST(TextRenderer, LongDetailsAreCutAtTheEdge) {
  Captured out(terminal80());
  Captured err(terminal80());
  auto renderer = make_text_renderer(out.screen, err.screen, kNames, Verbosity::kNormal);
  renderer->event(phase_event("rootfs", local::PHASE_DONE, 1, 1, std::string(200, 'x')));
  EXPECT_EQ(display_width(out.text.substr(0, out.text.find('\n'))), 80U) << out.text;
}

std::vector<nlohmann::json> parsed(const std::string& text) {
  std::vector<nlohmann::json> out;
  for (const std::string& line : split(trim(text), '\n')) out.push_back(nlohmann::json::parse(line));
  return out;
}

TEST(JsonRenderer, EveryEventIsOneObjectPerLine) {
  Captured out;
  auto renderer = make_json_renderer(out.screen, kNames);
  renderer->event(phase_event("transfer", local::PHASE_STARTED, 1000));
  renderer->event(progress_event(2000, 5, 0));
  renderer->event(summary_event());
  auto lines = parsed(out.text);
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_EQ(lines[0], nlohmann::json::parse(R"({"message_type":"phase","move_id":"m1","time_unix_ms":1000,
      "phase":"transfer","state":"started","detail":"","elapsed_ms":0})"));
  EXPECT_EQ(lines[1]["message_type"], "progress");
  EXPECT_EQ(lines[1]["bytes_done"], 5);
  EXPECT_TRUE(lines[1]["bytes_total"].is_null());
  EXPECT_EQ(lines[2]["message_type"], "summary");
  EXPECT_EQ(lines[2]["gap_ms"], 2380);
  EXPECT_EQ(lines[2]["gap_parts_ms"]["restore"], 310.5);
  EXPECT_EQ(lines[2]["bytes_memory"], 272629760);
  EXPECT_EQ(lines[2]["source_kept"], false);
}

TEST(JsonRenderer, PlanRowsComeBeforeThePlan) {
  local::MoveEvent event;
  peer::CheckRow& row = *event.mutable_plan()->add_rows();
  row.set_check("kernel");
  row.set_verdict(peer::VERDICT_WARN);
  row.set_found("a \"quoted\"\nthing\x1b");
  Captured out;
  make_json_renderer(out.screen, kNames)->event(event);
  auto lines = parsed(out.text);
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0]["message_type"], "plan_row");
  EXPECT_EQ(lines[0]["verdict"], "warns");
  EXPECT_EQ(lines[0]["found"], "a \"quoted\"\nthing\x1b");
  EXPECT_EQ(lines[1]["message_type"], "plan");
  EXPECT_EQ(lines[1]["to"], "azure");
}

TEST(JsonRenderer, FailuresCarryTheExitCode) {
  Captured out;
  auto renderer = make_json_renderer(out.screen, kNames);
  renderer->event(failure_event("unavailable", "restore", true));
  renderer->error(Error(Errc::kUnavailable, "gone").with_remedy("look"), Outcome::kFailed);
  auto lines = parsed(out.text);
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0]["message_type"], "error");
  EXPECT_EQ(lines[0]["exit_code"], 3);
  EXPECT_EQ(lines[0]["source_running"], true);
  EXPECT_EQ(lines[1]["message_type"], "error");
  EXPECT_EQ(lines[1]["code"], "unavailable");
  EXPECT_EQ(lines[1]["remedy"], "look");
  EXPECT_EQ(lines[1]["exit_code"], 1);
}

// Every type and field that we print stands in docs/json.md: what is not written there is no contract.
void expect_documented(const std::string& document, const nlohmann::json& json) {
  for (const auto& [key, value] : json.items()) {
    EXPECT_NE(document.find("`" + key + "`"), std::string::npos) << key;
    // The keys inside are names of parts; a node's facts are fields again.
    if (key == "facts" || key == "tunnel") expect_documented(document, value);
  }
  if (!json.contains("message_type")) return;
  std::string type = json["message_type"];
  EXPECT_NE(document.find("`" + type + "`"), std::string::npos) << type;
}

TEST(JsonContract, EveryFieldIsDocumented) {
  std::ifstream file(TS_SOURCE_DIR "/docs/json.md");
  std::string document{std::istreambuf_iterator<char>(file), {}};
  ASSERT_FALSE(document.empty());
  local::MoveEvent plan;
  plan.mutable_plan()->add_rows();
  local::ContainersReply containers;
  containers.add_containers();
  containers.add_engine_errors("podman: gone");
  local::ShowReply show;
  show.mutable_move()->mutable_summary();
  local::PeersReply peers;
  peers.add_peers();
  std::string all = json_lines(plan, "b") + json_lines(summary_event(), "b") +
                    json_lines(progress_event(1, 1, 1), "b") + json_lines(phase_event("plan", local::PHASE_DONE), "b") +
                    json_lines(failure_event("timeout", "dump", true), "b") + json_lines(containers) +
                    json_lines(show) + json_lines(local::ResolveReply()) + json_lines(peers) +
                    json_lines(local::PeerAddReply()) + json_lines(local::PeerCheckReply()) +
                    json_lines(local::NetworkCheckReply()) + json_lines(local::ExposeReply()) +
                    json_exposure_removed({}, {}) + json_lines(local::InfoReply()) +
                    json_error(Error(Errc::kTimeout, "x"), Outcome::kFailed) + json_cancel("m", "left", "") +
                    json_detached("m") + json_peer_removed("p") + json_version("1", "");
  for (const nlohmann::json& json : parsed(all)) expect_documented(document, json);
}

}  // namespace
}  // namespace transship::cli
