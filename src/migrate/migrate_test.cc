#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/text.h"
#include "migrate/convert.h"
#include "migrate/event_feed.h"
#include "migrate/live_memory.h"
#include "migrate/move_table.h"
#include "migrate/phase.h"
#include "migrate/reporter.h"
#include "migrate/resume_file.h"
#include "sys/file.h"

namespace transship::migrate {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class PhasesTest : public testing::Test {
 protected:
  Phase phase(const std::string& name, bool works, bool final = false) {
    return {name,
            [this, name, works]() -> Result<> {
              log_.push_back("run " + name);
              if (works) return {};
              return fail(Errc::kUnavailable, "{} broke", name);
            },
            [this, name] { log_.push_back("undo " + name); }, final};
  }
  PhaseOutcome go(std::vector<Phase> phases) {
    return run_phases(phases, [](const std::string&) -> Result<> { return {}; });
  }
  std::vector<std::string> log_;
};

TEST_F(PhasesTest, AFailureIsUndoneNewestFirstWithTheFailingOne) {
  auto outcome = go({phase("a", true), phase("b", false), phase("c", true)});
  EXPECT_THAT(log_, ElementsAre("run a", "run b", "undo b", "undo a"));
  EXPECT_EQ(outcome.failed, "b");
  EXPECT_FALSE(outcome.committed);
}

TEST_F(PhasesTest, NothingIsUndoneAfterTheCommit) {
  auto outcome = go({phase("a", true), phase("commit", true, true), phase("cleanup", false)});
  EXPECT_THAT(log_, ElementsAre("run a", "run commit", "run cleanup"));
  EXPECT_TRUE(outcome.committed);
  EXPECT_FALSE(outcome.result);
}

TEST_F(PhasesTest, ACommitThatFailsIsUndone) {
  auto outcome = go({phase("a", true), phase("commit", false, true)});
  EXPECT_THAT(log_, ElementsAre("run a", "run commit", "undo commit", "undo a"));
  EXPECT_FALSE(outcome.committed);
}

TEST_F(PhasesTest, CancelledBetweenPhases) {
  std::vector<Phase> phases = {phase("a", true), phase("b", true)};
  auto outcome = run_phases(phases, [](const std::string& name) -> Result<> {
    if (name == "b") return fail(Errc::kCancelled, "cancelled");
    return {};
  });
  EXPECT_THAT(log_, ElementsAre("run a", "undo b", "undo a"));
}

TEST(Reporter, PartsOfTheGapAddUp) {
  std::vector<local::MoveEvent> events;
  Reporter reporter("m1", [&](const local::MoveEvent& e) { events.push_back(e); });
  reporter.start_phase("dump");
  reporter.gap_begins();
  reporter.gap_part("freeze");
  reporter.gap_part("dump");
  reporter.gap_ends("release");
  reporter.start_phase("cleanup");
  reporter.end_phase();
  local::Summary summary;
  reporter.fill(summary);
  double sum = 0;
  for (const auto& part : summary.gap_parts()) sum += part.ms();
  EXPECT_NEAR(sum, reporter.gap_ms(), 0.01);
  ASSERT_EQ(summary.total_parts_size(), 2);
  EXPECT_EQ(summary.total_parts(0).name(), "dump");
  ASSERT_EQ(events.size(), 4U);
  EXPECT_EQ(events[1].phase().state(), local::PHASE_DONE);
  EXPECT_EQ(events[0].move_id(), "m1");
}

TEST(Reporter, ReckonedPartsStillAddUp) {
  Reporter reporter("m1", [](const local::MoveEvent&) {});
  reporter.gap_begins();
  reporter.gap_part("transfer");
  ::usleep(2000);
  reporter.gap_part("restore");
  reporter.gap_ends("release");
  reporter.reckon_gap("transfer", "restore", 1.5);
  reporter.reckon_gap("nothing", "restore", 1.5);
  local::Summary summary;
  reporter.fill(summary);
  ASSERT_EQ(summary.gap_parts_size(), 3);
  EXPECT_GE(summary.gap_parts(0).ms(), 1.5);
  EXPECT_NEAR(summary.gap_parts(0).ms() + summary.gap_parts(1).ms() + summary.gap_parts(2).ms(), reporter.gap_ms(),
              0.01);
  // No more than it had.
  reporter.reckon_gap("transfer", "restore", 1e6);
  local::Summary later;
  reporter.fill(later);
  EXPECT_NEAR(later.gap_parts(1).ms(), 0, 1e-9);
}

TEST(Reporter, ProgressIsNotAFlood) {
  int n = 0;
  Reporter reporter("m1", [&](const local::MoveEvent& e) { n += e.has_progress() ? 1 : 0; });
  reporter.start_phase("transfer");
  for (uint64_t i = 1; i <= 1000; ++i) reporter.progress(i, 1000);
  EXPECT_GE(n, 2);  // the first and the last
  EXPECT_LE(n, 10);
}

TEST(Reporter, RateIsWhatWasDoneAndNotWhatTheLinkCouldDo) {
  local::ProgressEvent event;
  event.set_bytes_done(30);
  event.set_bytes_total(100);
  set_pace(event, 2);
  EXPECT_DOUBLE_EQ(event.bytes_per_second(), 15);
  EXPECT_EQ(event.eta_ms(), 4666U);
  local::ProgressEvent unknown;
  unknown.set_bytes_done(30);
  set_pace(unknown, 2);
  EXPECT_DOUBLE_EQ(unknown.bytes_per_second(), 15);
  EXPECT_EQ(unknown.eta_ms(), 0U);
  set_pace(unknown, 0);
  EXPECT_DOUBLE_EQ(unknown.bytes_per_second(), 15);
}

TEST(EventFeed, LateWatchersSeeEverything) {
  EventFeed feed;
  local::MoveEvent event;
  event.set_move_id("x");
  feed.add(event);
  feed.add(event);
  size_t from = 0;
  bool ended = true;
  EXPECT_EQ(feed.wait(from, Deadline::in(milliseconds(0)), ended).size(), 2U);
  EXPECT_FALSE(ended);
  feed.end();
  EXPECT_TRUE(feed.wait(from, Deadline::in(milliseconds(60'000)), ended).empty());
  EXPECT_TRUE(ended);
}

engine::Container sample() {
  engine::Container c;
  c.engine = "podman";
  c.id = "0123456789abcdef";
  c.name = "redis";
  c.addresses.push_back({"podman", "10.88.0.5", 16, "aa:bb:cc:dd:ee:ff", "eth0", "10.88.0.1"});
  c.host_ports.push_back({"", 6379, 6379, "tcp"});
  c.mounts.push_back({"tmpfs", "", "/tmp", "", true});
  c.restart_policy = "always";
  c.spec = "{}";
  c.image_layers = {"sha256:" + std::string(64, '1')};
  return c;
}

TEST(Convert, RoundTrip) {
  auto back = from_facts(to_facts(sample()));
  ASSERT_TRUE(back);
  EXPECT_EQ(to_facts(*back).SerializeAsString(), to_facts(sample()).SerializeAsString());
  EXPECT_EQ(back->host_ports[0].host_port, 6379);
  EXPECT_EQ(back->restart_policy, "always");
}

TEST(Convert, RefusesWhatAPeerMayNotSend) {
  auto facts = to_facts(sample());
  facts.set_name("../../etc");
  EXPECT_EQ(from_facts(facts).error().code(), Errc::kPeerProtocol);
  facts = to_facts(sample());
  facts.set_id("");
  EXPECT_FALSE(from_facts(facts));
  facts = to_facts(sample());
  facts.mutable_host_ports(0)->set_host_port(70000);
  EXPECT_FALSE(from_facts(facts));
  facts = to_facts(sample());
  facts.set_engine_spec(std::string(3 << 20, 'x'));
  EXPECT_FALSE(from_facts(facts));
  // Parts of command lines, paths and messages.
  auto refused = [](auto change) {
    auto f = to_facts(sample());
    change(f);
    return !from_facts(f);
  };
  EXPECT_TRUE(refused([](auto& f) { f.set_image("[overlay@/x]app:1"); }));
  EXPECT_TRUE(refused([](auto& f) { f.set_image("--help"); }));
  EXPECT_TRUE(refused([](auto& f) { f.set_image(std::string(600, 'a')); }));
  EXPECT_TRUE(refused([](auto& f) { f.set_image_id("docker.io/library/nginx:latest"); }));
  EXPECT_TRUE(refused([](auto& f) { f.set_image_digest("sha256:../x"); }));
  EXPECT_TRUE(refused([](auto& f) { f.set_image_layers(0, "../x"); }));
  EXPECT_TRUE(refused([](auto& f) { f.mutable_addresses(0)->set_ip("10.0.0.1 via x"); }));
  EXPECT_TRUE(refused([](auto& f) { f.mutable_addresses(0)->set_network("../x"); }));
  EXPECT_TRUE(refused([](auto& f) { f.mutable_host_ports(0)->set_protocol("tcp;"); }));
  EXPECT_TRUE(refused([](auto& f) { f.mutable_host_ports(0)->set_host_ip("x"); }));
  EXPECT_FALSE(refused([](auto& f) { f.set_image("registry.lab:5000/redis:lab"); }));
}

TEST(MoveId, IsAPlainNameAndNew) {
  auto id = new_move_id();
  EXPECT_TRUE(is_plain_name(id));
  EXPECT_NE(id, new_move_id());
}

class ResumeFileTest : public testing::Test {
 protected:
  ResumeFileTest() {
    std::string pattern = testing::TempDir() + "/resumeXXXXXX";
    dir_ = ::mkdtemp(pattern.data());
  }
  ~ResumeFileTest() override { (void)sys::remove_tree(dir_); }
  std::string dir_;
};

TEST_F(ResumeFileTest, ComesBackAsItWasAndIsNobodyElses) {
  EXPECT_EQ(read_resume_file(dir_).error().code(), Errc::kNotFound);
  journal::ResumeFile file;
  file.mutable_arriving()->set_lane_token("secret");
  ASSERT_TRUE(write_resume_file(dir_, file));
  EXPECT_EQ(read_resume_file(dir_)->arriving().lane_token(), "secret");
  auto mode = std::filesystem::status(dir_ + "/resume").permissions();
  EXPECT_EQ(mode, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  ASSERT_TRUE(sys::write_file_atomic(dir_ + "/resume", "\xff\xff\xff"));
  EXPECT_EQ(read_resume_file(dir_).error().code(), Errc::kCorrupt);
}

TEST_F(ResumeFileTest, ExpectedPagesComeBack) {
  using memory::SpaceKind;
  ExpectedPages expected = {{{SpaceKind::kTask, 1}, {{0x1000, 1}, {0x2000, 7}, {0x7fff'0000'0000, 1U << 20}}},
                            {{SpaceKind::kTask, 17}, {}}};
  ASSERT_TRUE(write_expected_pages(dir_, expected));
  EXPECT_EQ(*read_expected_pages(dir_), expected);
}

TEST_F(ResumeFileTest, ExpectedPagesBeyondAllMemoryAreRefused) {
  journal::ExpectedPages message;
  auto& space = *message.add_spaces();
  space.add_gaps_and_lengths(~uint64_t{0});
  space.add_gaps_and_lengths(2);
  ASSERT_TRUE(sys::write_file_atomic(dir_ + "/expected-pages", message.SerializeAsString()));
  EXPECT_EQ(read_expected_pages(dir_).error().code(), Errc::kCorrupt);
}

TEST(LateMemory, WarningsNameTheFirstFew) {
  EXPECT_THAT(late_memory_warnings({}), ElementsAre());
  EXPECT_THAT(late_memory_warnings({{7, "db", "is odd"}}),
              ElementsAre("memory: db (process 7) is odd: sent after the freeze"));
  auto many = late_memory_warnings(std::vector<memory::Untracked>(8, {7, "db", "is odd"}));
  ASSERT_EQ(many.size(), 6U);
  EXPECT_EQ(many.back(), "memory: 3 more like these: sent after the freeze");
}

}  // namespace
}  // namespace transship::migrate
