#include "cli/peer_add.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "cli/fake_daemon.h"

namespace transship::cli {
namespace {

class PeerAddTest : public testing::Test {
 protected:
  void SetUp() override {
    daemon_.probe_reply->set_fingerprint("SHA256:theirs");
    daemon_.probe_reply->set_own_fingerprint("SHA256:ours");
    daemon_.info_reply->mutable_facts()->set_node("aws");
    daemon_.info_reply->set_fingerprint("SHA256:ours");
    daemon_.info_reply->set_listen_address("0.0.0.0:7601");
    options_.name = "azure";
    options_.address = "10.20.0.2";
    options_.remote_program = "transship";
  }

  Result<local::PeerAddReply> add() {
    PeerAddUi ui{.say = [this](const std::string& text) { said_ += text + "\n"; },
                 .ask = [this](const std::string&) { return answer_; },
                 .run_remote = [this](const std::string& target, const std::string& command) -> Result<RemoteOutput> {
                   commands_.push_back(target + ": " + command);
                   if (remote_.empty()) return fail(Errc::kUnavailable, "no more answers");
                   auto first = remote_.front();
                   remote_.erase(remote_.begin());
                   return first;
                 }};
    return add_peer(daemon_, ui, options_);
  }

  void use_ssh() {
    options_.ssh = "root@azure.example";
    options_.address = "";
    remote_.push_back(
        RemoteOutput{0,
                     "Welcome to azure!\nSSH_CONNECTION=10.1.0.9 51234 10.20.0.2 22\n"
                     R"({"message_type":"node","fingerprint":"SHA256:theirs","listen_address":"[::]:7601"})"
                     "\n"});
  }

  FakeDaemon daemon_;
  PeerAddOptions options_;
  std::string said_;
  std::optional<std::string> answer_;
  std::vector<std::string> commands_;
  std::vector<Result<RemoteOutput>> remote_;
};

TEST_F(PeerAddTest, AsksWithBothFingerprints) {
  answer_ = "y";
  auto reply = add();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->peer().fingerprint(), "SHA256:theirs");
  EXPECT_NE(said_.find("SHA256:theirs"), std::string::npos);
  EXPECT_NE(said_.find("SHA256:ours"), std::string::npos);
}

TEST_F(PeerAddTest, AnythingButYesChangesNothing) {
  for (const char* word : {"", "n", "no", "yy"}) {
    answer_ = word;
    auto reply = add();
    ASSERT_FALSE(reply) << word;
    EXPECT_EQ(reply.error().code(), Errc::kCancelled);
  }
  EXPECT_TRUE(daemon_.added.empty());
}

TEST_F(PeerAddTest, WithoutATerminalItNamesTheOption) {
  auto reply = add();
  ASSERT_FALSE(reply);
  EXPECT_NE(reply.error().remedy().find("--fingerprint SHA256:theirs"), std::string::npos);
  EXPECT_TRUE(daemon_.added.empty());
}

TEST_F(PeerAddTest, AnotherKeyThanExpectedIsRefused) {
  options_.fingerprint = "SHA256:expected";
  auto reply = add();
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code(), Errc::kUnauthorized);
  EXPECT_NE(reply.error().message().find("SHA256:theirs"), std::string::npos);
  EXPECT_TRUE(daemon_.added.empty());
}

TEST_F(PeerAddTest, AKnownKeyIsPinnedEvenWhenThePeerIsAway) {
  options_.fingerprint = "SHA256:theirs";
  daemon_.probe_reply = fail(Errc::kUnavailable, "connection refused");
  ASSERT_TRUE(add());
  EXPECT_NE(said_.find("not reachable"), std::string::npos);
  EXPECT_NE(said_.find("connection refused"), std::string::npos);
  EXPECT_EQ(daemon_.added.size(), 1U);
}

TEST_F(PeerAddTest, SshPinsBothWays) {
  use_ssh();
  remote_.push_back(RemoteOutput{0, R"({"message_type":"peer_added","existed":false})"
                                    "\n"});
  auto reply = add();
  ASSERT_TRUE(reply) << reply.error().message();
  ASSERT_EQ(commands_.size(), 2U);
  EXPECT_EQ(commands_[1],
            "root@azure.example: transship peer add 'aws' '10.1.0.9:7601' --fingerprint 'SHA256:ours' --json");
  ASSERT_EQ(daemon_.added.size(), 1U);
  EXPECT_EQ(daemon_.added[0].address(), "azure.example:7601");
  EXPECT_EQ(daemon_.added[0].fingerprint(), "SHA256:theirs");
}

TEST_F(PeerAddTest, SshUndoesTheRemoteHalf) {
  use_ssh();
  remote_.push_back(RemoteOutput{0, R"({"message_type":"peer_added","existed":false})"
                                    "\n"});
  remote_.push_back(RemoteOutput{0, R"({"message_type":"peer_removed"})"
                                    "\n"});
  daemon_.add_error = fail(Errc::kAlreadyExists, "azure has another key");
  auto reply = add();
  ASSERT_FALSE(reply);
  ASSERT_EQ(commands_.size(), 3U);
  EXPECT_EQ(commands_[2], "root@azure.example: transship peer rm 'aws' --json");
  EXPECT_NE(reply.error().message().find("azure has another key; what was pinned on root@azure.example was undone"),
            std::string::npos)
      << reply.error().message();
}

TEST_F(PeerAddTest, SshLeavesWhatWasThereBefore) {
  use_ssh();
  remote_.push_back(RemoteOutput{0, R"({"message_type":"peer_added","existed":true})"
                                    "\n"});
  daemon_.add_error = fail(Errc::kAlreadyExists, "azure has another key");
  ASSERT_FALSE(add());
  EXPECT_EQ(commands_.size(), 2U);
}

TEST_F(PeerAddTest, SshWithAnotherKeyAtTheAddressTouchesNothing) {
  use_ssh();
  daemon_.probe_reply->set_fingerprint("SHA256:someone-else");
  auto reply = add();
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code(), Errc::kUnauthorized);
  EXPECT_EQ(commands_.size(), 1U);
  EXPECT_TRUE(daemon_.added.empty());
}

TEST_F(PeerAddTest, SshStepsThatFailAreNamed) {
  options_.ssh = "root@azure.example";
  remote_.push_back(RemoteOutput{127, ""});
  auto missing = add();
  ASSERT_FALSE(missing);
  EXPECT_NE(missing.error().message().find("cannot run \"transship\" there"), std::string::npos);
  remote_ = {RemoteOutput{1, R"({"message_type":"error","message":"cannot reach the daemon","remedy":"start it"})"
                             "\n"}};
  auto down = add();
  ASSERT_FALSE(down);
  EXPECT_NE(down.error().message().find("root@azure.example: cannot reach the daemon"), std::string::npos);
  EXPECT_EQ(down.error().remedy(), "there: start it");
  remote_ = {fail(Errc::kUnavailable, "ssh could not log in")};
  EXPECT_EQ(add().error().message(), "ssh could not log in");
  EXPECT_TRUE(daemon_.added.empty());
}

TEST(RemoteNode, HostileAnswersAreRefused) {
  EXPECT_FALSE(parse_remote_node(""));
  EXPECT_FALSE(parse_remote_node("{\"message_type\":\"node\"}"));
  EXPECT_FALSE(parse_remote_node("{\"message_type\":\"node\",\"fingerprint\":7}"));
  EXPECT_FALSE(parse_remote_node("{\"message_type\":\"node\",\"fingerprint\":\"x'; rm -rf /\"}"));
  EXPECT_FALSE(parse_remote_node("[[[[{\"message_type\":"));
}

TEST(WithPort, KeepsWhatIsThere) {
  EXPECT_EQ(with_port("10.0.0.1", "0.0.0.0:7601"), "10.0.0.1:7601");
  EXPECT_EQ(with_port("10.0.0.1:9", "0.0.0.0:7601"), "10.0.0.1:9");
  EXPECT_EQ(with_port("fd00::1", "[::]:7601"), "[fd00::1]:7601");
  EXPECT_EQ(with_port("[fd00::1]", "[::]:7601"), "[fd00::1]:7601");
  EXPECT_EQ(with_port("[fd00::1]:9", "[::]:7601"), "[fd00::1]:9");
  EXPECT_EQ(with_port("azure", ""), "azure");
}

TEST(ShellQuote, OneWordWhateverIsInIt) {
  EXPECT_EQ(shell_quote("a b"), "'a b'");
  EXPECT_EQ(shell_quote("it's"), "'it'\\''s'");
}

// Puts a script in ssh's place.
class RunOverSshTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/transship-ssh-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    directory_ = name;
    const char* path = std::getenv("PATH");
    old_path_ = path == nullptr ? "" : path;
  }
  void TearDown() override {
    ::setenv("PATH", old_path_.c_str(), 1);
    std::filesystem::remove_all(directory_);
  }
  void ssh_is(const std::string& script) const {
    std::ofstream(directory_ + "/ssh") << "#!/bin/sh\n" << script << "\n";
    std::filesystem::permissions(directory_ + "/ssh", std::filesystem::perms::owner_all);
    ::setenv("PATH", (directory_ + ":" + old_path_).c_str(), 1);
  }
  std::string directory_;
  std::string old_path_;
};

TEST_F(RunOverSshTest, PassesTargetAndCommandAsSingleWords) {
  ssh_is("printf '<%s>' \"$@\"; exit 7");
  auto output = run_over_ssh("root@azure", "transship node info; echo 'a  b'");
  ASSERT_TRUE(output) << output.error().message();
  EXPECT_EQ(output->out, "<--><root@azure><transship node info; echo 'a  b'>");
  EXPECT_EQ(output->exit_code, 7);
}

TEST_F(RunOverSshTest, NoLoginIsAnErrorThatNamesTheTarget) {
  ssh_is("exit 255");
  auto output = run_over_ssh("root@azure", "true");
  ASSERT_FALSE(output);
  EXPECT_NE(output.error().message().find("could not log in to root@azure"), std::string::npos);
  EXPECT_EQ(output.error().remedy(), "make this work first: ssh root@azure true");
}

TEST_F(RunOverSshTest, EndlessOutputIsCutOff) {
  ssh_is("exec cat /dev/zero");
  auto output = run_over_ssh("root@azure", "true");
  ASSERT_FALSE(output);
  EXPECT_EQ(output.error().code(), Errc::kPeerProtocol);
}

TEST_F(RunOverSshTest, WithoutSshItSaysSo) {
  ::setenv("PATH", directory_.c_str(), 1);
  auto output = run_over_ssh("root@azure", "true");
  ASSERT_FALSE(output);
  EXPECT_NE(output.error().message().find("cannot run ssh: it is not installed"), std::string::npos);
}

}  // namespace
}  // namespace transship::cli
