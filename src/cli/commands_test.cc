#include "cli/commands.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/fake_daemon.h"

namespace transship::cli {
namespace {

// Hands out a daemon that the test keeps.
class Borrowed : public Daemon {
 public:
  explicit Borrowed(FakeDaemon& to) : to_(to) {}
  Result<local::InfoReply> info() override { return to_.info(); }
  Result<local::ContainersReply> containers(const local::ContainersRequest& r) override { return to_.containers(r); }
  Result<local::PlanReply> plan(const local::PlanRequest& r) override { return to_.plan(r); }
  Result<std::unique_ptr<MoveStream>> move(const local::MoveRequest& r) override { return to_.move(r); }
  Result<local::MovesReply> moves(const local::MovesRequest& r) override { return to_.moves(r); }
  Result<local::ShowReply> show(const local::ShowRequest& r) override { return to_.show(r); }
  Result<local::CancelReply> cancel(const local::CancelRequest& r) override { return to_.cancel(r); }
  Result<local::ResolveReply> resolve(const local::ResolveRequest& r) override { return to_.resolve(r); }
  Result<local::PeerProbeReply> peer_probe(const local::PeerProbeRequest& r) override { return to_.peer_probe(r); }
  Result<local::PeerAddReply> peer_add(const local::PeerAddRequest& r) override { return to_.peer_add(r); }
  Result<> peer_remove(const local::PeerRemoveRequest& r) override { return to_.peer_remove(r); }
  Result<local::PeersReply> peers() override { return to_.peers(); }
  Result<local::ExposeReply> expose(const local::ExposeRequest& r) override { return to_.expose(r); }
  Result<local::ExposuresReply> exposures() override { return to_.exposures(); }
  Result<local::ExposeRemoveReply> expose_remove(const local::ExposeRemoveRequest& r) override {
    return to_.expose_remove(r);
  }
  Result<local::NetworkCheckReply> network_check(const local::NetworkCheckRequest& r) override {
    return to_.network_check(r);
  }
  Result<local::NamesReply> names() override { return to_.names(); }
  Result<local::NamesReply> names_setup(const local::NamesSetupRequest& r) override { return to_.names_setup(r); }
  Result<local::PeerCheckReply> peer_check(const local::PeerCheckRequest& r) override { return to_.peer_check(r); }

 private:
  FakeDaemon& to_;
};

class CommandsTest : public testing::Test {
 protected:
  Outcome run(const std::vector<std::string>& words) {
    auto parsed = parse_arguments(words);
    if (auto* stop = std::get_if<Stop>(&parsed)) {
      ADD_FAILURE() << stop->err;
      return Outcome::kUsage;
    }
    Environment environment{.out = out_.screen,
                            .err = err_.screen,
                            .connect = [this](const std::string&) { return std::make_unique<Borrowed>(daemon_); },
                            .watch_signals = [] { return open_file("/dev/null", O_RDONLY); },
                            .leave_now = {},
                            .ask = [](const std::string&) { return std::nullopt; },
                            .run_remote = {}};
    return run_command(environment, std::get<Arguments>(parsed));
  }

  Captured out_;
  Captured err_;
  FakeDaemon daemon_;
};

TEST(ExitCode, TheContract) {
  EXPECT_EQ(exit_code(Outcome::kDone), 0);
  EXPECT_EQ(exit_code(Outcome::kFailed), 1);
  EXPECT_EQ(exit_code(Outcome::kUsage), 2);
  EXPECT_EQ(exit_code(Outcome::kRolledBack), 3);
  EXPECT_EQ(exit_code(Outcome::kRefused), 4);
  EXPECT_EQ(exit_code(Outcome::kNotConverged), 5);
  EXPECT_EQ(exit_code(Outcome::kCancelled), 130);
}

TEST(ExitCode, OfAFailedMove) {
  auto of = [](const char* code, const char* phase, bool running) {
    return outcome_of(failure_event(code, phase, running).failure());
  };
  EXPECT_EQ(of("unavailable", "restore", true), Outcome::kRolledBack);
  EXPECT_EQ(of("unavailable", "restore", false), Outcome::kFailed);
  EXPECT_EQ(of("refused", "plan", true), Outcome::kRefused);
  EXPECT_EQ(of("refused", "reserve", true), Outcome::kRefused);
  EXPECT_EQ(of("refused", "dump", true), Outcome::kRolledBack);  // EPERM, not a check
  EXPECT_EQ(of("not_converged", "memory", true), Outcome::kNotConverged);
  EXPECT_EQ(of("cancelled", "transfer", true), Outcome::kCancelled);
  EXPECT_EQ(of("of a newer daemon", "dump", true), Outcome::kRolledBack);
  local::FailureEvent broken = failure_event("cancelled", "transfer", false).failure();
  broken.set_source_state("the thaw failed");
  EXPECT_EQ(outcome_of(broken), Outcome::kFailed);
  local::FailureEvent after = failure_event("unavailable", "cleanup", false).failure();
  after.set_committed(true);
  EXPECT_EQ(outcome_of(after), Outcome::kFailed);
}

TEST_F(CommandsTest, ABlockedPlanHasItsOwnCode) {
  daemon_.plan_reply->set_blocked(true);
  EXPECT_EQ(run({"plan", "redis", "--to", "azure"}), Outcome::kRefused);
  daemon_.plan_reply->set_blocked(false);
  EXPECT_EQ(run({"plan", "redis", "--to", "azure"}), Outcome::kDone);
}

TEST_F(CommandsTest, MoveHandsOverEveryOption) {
  daemon_.script.add(summary_event());
  EXPECT_EQ(run({"move", "redis", "--to", "azure", "--keep-source", "--bwlimit", "100mbit"}), Outcome::kDone);
  EXPECT_EQ(daemon_.move_request.container(), "redis");
  EXPECT_EQ(daemon_.move_request.peer(), "azure");
  EXPECT_TRUE(daemon_.move_request.keep_source());
  EXPECT_FALSE(daemon_.move_request.detach());
  EXPECT_EQ(daemon_.move_request.max_bits_per_second(), 100'000'000U);
}

TEST_F(CommandsTest, ANewAddressIsAskedForByBoth) {
  daemon_.script.add(summary_event());
  EXPECT_EQ(run({"move", "redis", "--to", "azure", "--new-ip"}), Outcome::kDone);
  EXPECT_TRUE(daemon_.move_request.new_address());
  EXPECT_EQ(run({"plan", "redis", "--to", "azure", "--new-ip"}), Outcome::kDone);
  EXPECT_TRUE(daemon_.plan_request.new_address());
  EXPECT_EQ(run({"plan", "redis", "--to", "azure"}), Outcome::kDone);
  EXPECT_FALSE(daemon_.plan_request.new_address());
}

TEST_F(CommandsTest, DetachPrintsNothingButTheId) {
  daemon_.script.add(phase_event("plan", local::PHASE_DONE));
  daemon_.script.add(phase_event("reserve", local::PHASE_DONE));
  EXPECT_EQ(run({"move", "redis", "--to", "azure", "--detach"}), Outcome::kDone);
  EXPECT_EQ(out_.text, "m1\n");
  EXPECT_EQ(err_.text, "");
}

TEST_F(CommandsTest, AnEngineThatDoesNotAnswerIsAFailure) {
  local::Container& c = *daemon_.containers_reply->add_containers();
  c.set_engine("runc");
  c.set_name("cache");
  daemon_.containers_reply->add_engine_errors("podman: socket is gone");
  EXPECT_EQ(run({"ps"}), Outcome::kFailed);
  EXPECT_NE(out_.text.find("cache"), std::string::npos);
  EXPECT_NE(err_.text.find("podman: socket is gone"), std::string::npos);
}

TEST_F(CommandsTest, CancelSaysWhatBecameOfIt) {
  EXPECT_EQ(run({"cancel", "m1"}), Outcome::kFailed);
  EXPECT_NE(err_.text.find("does not run"), std::string::npos);
  daemon_.cancel_reply->set_was_running(true);
  EXPECT_EQ(run({"cancel", "m1"}), Outcome::kDone);
  daemon_.cancel_reply->set_too_late(true);
  EXPECT_EQ(run({"cancel", "m1"}), Outcome::kFailed);
  EXPECT_NE(err_.text.find("too late"), std::string::npos);
}

TEST_F(CommandsTest, ErrorsWithJsonAreJsonOnTheSameOutput) {
  daemon_.show_reply = std::unexpected(Error(Errc::kNotFound, "no move m1").with_remedy("see transship moves"));
  EXPECT_EQ(run({"show", "m1", "--json"}), Outcome::kFailed);
  auto json = nlohmann::json::parse(out_.text);
  EXPECT_EQ(json["message_type"], "error");
  EXPECT_EQ(json["code"], "not_found");
  EXPECT_EQ(json["remedy"], "see transship moves");
  EXPECT_EQ(err_.text, "");
}

TEST_F(CommandsTest, JsonContractOfTheLists) {
  local::Container& c = *daemon_.containers_reply->add_containers();
  c.set_engine("podman");
  c.set_name("redis");
  c.add_addresses("10.88.0.5");
  EXPECT_EQ(run({"ps", "--json"}), Outcome::kDone);
  EXPECT_EQ(nlohmann::json::parse(out_.text),
            nlohmann::json::parse(R"({"message_type":"container","engine":"podman","id":"","name":"redis","image":"",
              "state":"","memory_bytes":0,"addresses":["10.88.0.5"],"movable":false,"why_not":""})"));
  out_.text.clear();
  daemon_.info_reply->set_fingerprint("SHA256:ours");
  daemon_.info_reply->set_listen_address("0.0.0.0:7601");
  daemon_.info_reply->mutable_facts()->set_node("aws");
  EXPECT_EQ(run({"node", "info", "--json"}), Outcome::kDone);
  auto node = nlohmann::json::parse(out_.text);
  EXPECT_EQ(node["message_type"], "node");
  EXPECT_EQ(node["node"], "aws");
  EXPECT_EQ(node["fingerprint"], "SHA256:ours");
  EXPECT_EQ(node["listen_address"], "0.0.0.0:7601");
}

TEST_F(CommandsTest, VersionWorksWithoutADaemon) {
  daemon_.info_reply = fail(Errc::kUnavailable, "cannot reach the daemon");
  EXPECT_EQ(run({"version"}), Outcome::kDone);
  EXPECT_TRUE(out_.text.starts_with("transship " TS_VERSION "\n")) << out_.text;
  EXPECT_EQ(run({"ps"}), Outcome::kDone);
}

TEST_F(CommandsTest, PeersAddedFromScripts) {
  const std::string theirs = "SHA256:" + std::string(43, 't');
  const std::string other = "SHA256:" + std::string(43, 'o');
  daemon_.probe_reply->set_fingerprint(theirs);
  EXPECT_EQ(run({"peer", "add", "azure", "10.20.0.2", "--fingerprint", theirs}), Outcome::kDone);
  EXPECT_EQ(out_.text, "azure at 10.20.0.2 is now trusted with the key " + theirs + "\n");
  EXPECT_EQ(run({"peer", "add", "azure", "10.20.0.2", "--fingerprint", other}), Outcome::kFailed);
  EXPECT_EQ(run({"peer", "rm", "azure"}), Outcome::kDone);
  EXPECT_EQ(daemon_.removed, std::vector<std::string>{"azure"});
}

TEST_F(CommandsTest, NamesAndWhoAsksForThem) {
  auto& reply = *daemon_.names_reply;
  reply.mutable_state()->set_server("dnsmasq on 169.254.185.53");
  reply.mutable_state()->set_domain("transship");
  auto& name = *reply.add_names();
  name.set_name("web-1");
  name.set_container("web_1");
  name.add_addresses("10.88.0.3");
  name.set_node("azure");
  name.set_bare(true);
  name.set_served(true);
  auto& second = *reply.add_names();
  second = name;
  second.set_node("aws");
  second.set_bare(false);
  second.set_note("azure has had this name before: only with the node's name");
  EXPECT_EQ(run({"names"}), Outcome::kDone);
  EXPECT_THAT(out_.text, testing::HasSubstr("web-1.transship"));
  EXPECT_THAT(out_.text, testing::HasSubstr("web-1.aws.transship"));
  EXPECT_THAT(out_.text, testing::HasSubstr("azure has had this name before"));
  EXPECT_THAT(out_.text, testing::HasSubstr("for *.transship, not asked by this host (transship names setup)\n"));
  out_.text.clear();
  EXPECT_EQ(run({"names", "setup"}), Outcome::kDone);
  EXPECT_THAT(out_.text, testing::HasSubstr("asked by this host (in /etc/resolv.conf)\n"));
  out_.text.clear();
  EXPECT_EQ(run({"names", "ls", "--json"}), Outcome::kDone);
  EXPECT_THAT(out_.text, testing::HasSubstr("\"message_type\":\"name\",\"name\":\"web-1\""));
  EXPECT_THAT(out_.text, testing::HasSubstr("\"message_type\":\"names\""));
  daemon_.names_reply = fail(Errc::kUnavailable, "no server");
  EXPECT_EQ(run({"names", "remove"}), Outcome::kFailed);
}

}  // namespace
}  // namespace transship::cli
