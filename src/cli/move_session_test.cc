#include "cli/move_session.h"

#include <gtest/gtest.h>
#include <sys/signalfd.h>

#include "cli/fake_daemon.h"

namespace transship::cli {
namespace {

// Passes everything on, and tells the test what was shown.
class Watched : public MoveRenderer {
 public:
  Watched(MoveRenderer& to, const std::function<void(const std::string&)>& on_cancelling)
      : to_(to), on_cancelling_(on_cancelling) {}
  void event(const local::MoveEvent& event) override { to_.event(event); }
  void error(const Error& error, Outcome outcome) override { to_.error(error, outcome); }
  void cancelling(const std::string& id, const std::string& state, const std::string& text) override {
    to_.cancelling(id, state, text);
    if (on_cancelling_) on_cancelling_(state);
  }
  void detached(const std::string& id) override { to_.detached(id); }

 private:
  MoveRenderer& to_;
  const std::function<void(const std::string&)>& on_cancelling_;
};

// Signals come through a pipe that carries what a signalfd would.
class MoveSessionTest : public testing::Test {
 protected:
  void SetUp() override {
    auto made = make_pipe();
    ASSERT_TRUE(made);
    signals_ = std::move(*made);
    request_.set_container("redis");
    request_.set_peer("azure");
  }

  void press_ctrl_c() const {
    signalfd_siginfo info{};
    ASSERT_EQ(::write(signals_.write.get(), &info, sizeof info), ssize_t(sizeof info));
  }

  Outcome follow() {
    auto renderer = make_text_renderer(out_.screen, err_.screen, {"redis", "azure"}, Verbosity::kNormal);
    Watched watched(*renderer, on_cancelling_);
    MoveSession session{.daemon = daemon_,
                        .renderer = watched,
                        .signals = signals_.read.get(),
                        .leave_now = [this](Outcome) { left_ = true; },
                        .quiet = quiet_};
    return follow_move(session, request_);
  }

  Captured out_;
  Captured err_;
  FakeDaemon daemon_;
  local::MoveRequest request_;
  Pipe signals_;
  milliseconds quiet_{60'000};
  bool left_ = false;
  std::function<void(const std::string&)> on_cancelling_ = {};
};

TEST_F(MoveSessionTest, EndsWithTheSummary) {
  daemon_.script.add(phase_event("plan", local::PHASE_STARTED));
  daemon_.script.add(summary_event());
  daemon_.script.finish();
  EXPECT_EQ(follow(), Outcome::kDone);
  EXPECT_NE(out_.text.find("now runs on azure"), std::string::npos);
  EXPECT_EQ(err_.text, "");
}

TEST_F(MoveSessionTest, FirstSignalCancelsAndWaitsForTheEnd) {
  std::string cancelled;
  daemon_.on_cancel = [&](const std::string& id) {
    cancelled = id;
    daemon_.script.add(failure_event("cancelled", "transfer", true));
    daemon_.script.finish();
  };
  daemon_.cancel_reply->set_was_running(true);
  daemon_.script.add(phase_event("transfer", local::PHASE_STARTED));
  press_ctrl_c();
  EXPECT_EQ(follow(), Outcome::kCancelled);
  EXPECT_EQ(cancelled, "m1");
  EXPECT_NE(err_.text.find("cancelling…"), std::string::npos);
  EXPECT_NE(err_.text.find("was cancelled in phase transfer"), std::string::npos);
  EXPECT_FALSE(left_);
}

TEST_F(MoveSessionTest, TooLateGoesOnToTheSummary) {
  daemon_.cancel_reply->set_was_running(true);
  daemon_.cancel_reply->set_too_late(true);
  daemon_.on_cancel = [&](const std::string&) { daemon_.script.add(summary_event()); };
  daemon_.script.add(phase_event("commit", local::PHASE_STARTED));
  press_ctrl_c();
  EXPECT_EQ(follow(), Outcome::kDone);
  EXPECT_NE(out_.text.find("now runs on azure"), std::string::npos);
  EXPECT_FALSE(left_);
}

// Leaving after that is no success of cancelling: the move is under way to its end.
TEST_F(MoveSessionTest, TooLateIsSaidAndLeavingIsNotCancelling) {
  daemon_.cancel_reply->set_too_late(true);
  daemon_.script.add(phase_event("commit", local::PHASE_STARTED));
  press_ctrl_c();
  on_cancelling_ = [this](const std::string& state) {
    if (state == "too_late") press_ctrl_c();
  };
  EXPECT_EQ(follow(), Outcome::kFailed);
  EXPECT_NE(err_.text.find("too late to cancel"), std::string::npos);
  EXPECT_TRUE(left_);
}

TEST_F(MoveSessionTest, SecondSignalLeavesAtOnce) {
  daemon_.script.add(phase_event("transfer", local::PHASE_STARTED));
  press_ctrl_c();
  press_ctrl_c();
  EXPECT_EQ(follow(), Outcome::kCancelled);
  EXPECT_TRUE(left_);
  EXPECT_TRUE(daemon_.script.was_aborted());
}

TEST_F(MoveSessionTest, ADaemonThatDiesIsAnError) {
  daemon_.script.add(phase_event("transfer", local::PHASE_STARTED));
  daemon_.script.finish(fail(Errc::kUnavailable, "socket closed"));
  EXPECT_EQ(follow(), Outcome::kFailed);
  EXPECT_NE(err_.text.find("lost the daemon in the middle: socket closed"), std::string::npos) << err_.text;
  EXPECT_NE(err_.text.find("transship show m1"), std::string::npos);
}

TEST_F(MoveSessionTest, AStreamWithoutAnEndIsAnError) {
  daemon_.script.add(phase_event("transfer", local::PHASE_STARTED));
  daemon_.script.finish();
  EXPECT_EQ(follow(), Outcome::kFailed);
  EXPECT_NE(err_.text.find("without saying how the move ended"), std::string::npos);
}

TEST_F(MoveSessionTest, ADaemonThatHangsIsAnError) {
  quiet_ = milliseconds(5);
  daemon_.info_reply = fail(Errc::kTimeout, "no answer");
  daemon_.script.add(phase_event("transfer", local::PHASE_STARTED));
  EXPECT_EQ(follow(), Outcome::kFailed);
  EXPECT_NE(err_.text.find("the daemon does not answer: no answer"), std::string::npos) << err_.text;
}

TEST_F(MoveSessionTest, DetachedReturnsWhenReserved) {
  request_.set_detach(true);
  daemon_.script.add(phase_event("plan", local::PHASE_STARTED));
  daemon_.script.add(phase_event("plan", local::PHASE_DONE));
  daemon_.script.add(phase_event("reserve", local::PHASE_STARTED));
  daemon_.script.add(phase_event("reserve", local::PHASE_DONE));
  EXPECT_EQ(follow(), Outcome::kDone);
  EXPECT_TRUE(out_.text.ends_with("m1\n")) << out_.text;
}

TEST_F(MoveSessionTest, DetachedStillTellsWhatThePlanRefuses) {
  request_.set_detach(true);
  daemon_.script.add(phase_event("plan", local::PHASE_STARTED));
  daemon_.script.add(phase_event("plan", local::PHASE_FAILED));
  daemon_.script.add(failure_event("refused", "plan", true));
  EXPECT_EQ(follow(), Outcome::kRefused);
}

TEST_F(MoveSessionTest, ARequestThatIsRefusedOutright) {
  daemon_.script.finish(fail(Errc::kNotFound, "no container \"redis\""));
  EXPECT_EQ(follow(), Outcome::kFailed);
  EXPECT_NE(err_.text.find("move of redis to azure: no container \"redis\""), std::string::npos);
}

}  // namespace
}  // namespace transship::cli
