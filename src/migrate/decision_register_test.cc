#include "migrate/decision_register.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "arbiter/fake_arbiter.h"
#include "arbiter/said.h"
#include "migrate/test_node.h"

namespace transship::migrate {
namespace {

using arbiter::testing::FakeArbiter;
using arbiter::testing::FakeRegister;
using arbiter::testing::said;
using Link = FakeArbiter::Link;

constexpr const char* kId = "0123456789";

struct Node {
  explicit Node(std::shared_ptr<FakeRegister> shared)
      : journal(file.open()), arbiter(shared), decisions(*journal, &arbiter, kId, shared->identity) {}
  testing::StoreFile file;
  std::unique_ptr<state::Store> journal;
  FakeArbiter arbiter;
  DecisionRegister decisions;
};

class RegisterTest : public ::testing::Test {
 protected:
  // What the destination's answers are, one after the other; then it is silent.
  SettleHooks hooks(std::vector<Result<Decision>> answers) {
    answers_ = std::move(answers);
    SettleHooks h;
    h.withdraw = [this] {
      ++withdrawals_;
      if (on_withdraw_) on_withdraw_();
      return answer();
    };
    h.commit = [this] {
      ++commits_;
      return answer();
    };
    return h;
  }
  Result<Decision> answer() {
    if (answers_.empty()) return fail(Errc::kUnavailable, "silent");
    auto answer = std::move(answers_.front());
    answers_.erase(answers_.begin());
    return answer;
  }
  SettleOptions quick() {
    SettleOptions o;
    o.pause = milliseconds(1);
    return o;
  }
  static Deadline soon() { return Deadline::in(milliseconds(100)); }
  std::shared_ptr<FakeRegister> shared_ = std::make_shared<FakeRegister>();
  Node aws_{shared_};
  Node azure_{shared_};
  std::vector<Result<Decision>> answers_;
  std::function<void()> on_withdraw_;
  int withdrawals_ = 0;
  int commits_ = 0;
  Cancel never_ = *Cancel::create();
};

TEST_F(RegisterTest, WithoutAnArbiterTheJournalDecides) {
  DecisionRegister alone(*aws_.journal, nullptr, kId, "");
  EXPECT_EQ(said(alone.decide(Decision::kCommit, soon(), never_)), "commit");
  EXPECT_EQ(said(alone.decide(Decision::kAbort, soon(), never_)), "commit");
  EXPECT_EQ(said(alone.decision(soon(), never_)), "commit");
  EXPECT_EQ(said(alone.take_over(Decision::kCommit, soon(), never_)), "nothing");
  EXPECT_EQ(*alone.hold_source(never_), nullptr);
}

TEST_F(RegisterTest, WithOneBothSeeTheFirstWord) {
  EXPECT_EQ(said(azure_.decisions.take_over(Decision::kCommit, soon(), never_)), "commit");
  EXPECT_EQ(said(aws_.decisions.decide(Decision::kAbort, soon(), never_)), "commit");
  EXPECT_EQ(said(aws_.journal->decision(kId)), "nothing") << "the copy is made by keep()";
}

TEST_F(RegisterTest, AHeldSourceIsLeftAlone) {
  auto hold = aws_.decisions.hold_source(never_);
  ASSERT_TRUE(hold);
  EXPECT_EQ(said(azure_.decisions.take_over(Decision::kCommit, soon(), never_)), "nothing");
  hold->reset();
  EXPECT_EQ(said(azure_.decisions.take_over(Decision::kCommit, soon(), never_)), "commit");
}

TEST_F(RegisterTest, TheCopyInTheJournalWins) {
  EXPECT_EQ(said(azure_.decisions.decide(Decision::kCommit, soon(), never_)), "commit");
  ASSERT_TRUE(aws_.decisions.keep(Decision::kAbort));
  EXPECT_EQ(said(aws_.decisions.decide(Decision::kCommit, soon(), never_)), "abort");
  EXPECT_EQ(said(aws_.decisions.decision(soon(), never_)), "abort");
}

TEST_F(RegisterTest, AnotherArbiterKnowsNothing) {
  DecisionRegister other(*aws_.journal, &aws_.arbiter, kId, "etcd beef /transship");
  EXPECT_EQ(other.decide(Decision::kAbort, soon(), never_).error().code(), arbiter::kOutcomeUnknown);
  EXPECT_EQ(other.decision(soon(), never_).error().code(), arbiter::kOutcomeUnknown);
  EXPECT_EQ(other.take_over(Decision::kCommit, soon(), never_).error().code(), arbiter::kOutcomeUnknown);
  DecisionRegister none(*aws_.journal, nullptr, kId, shared_->identity);
  EXPECT_EQ(none.decide(Decision::kAbort, soon(), never_).error().code(), arbiter::kOutcomeUnknown);
  MutexLock lock(shared_->mu);
  EXPECT_TRUE(shared_->decisions.empty());
}

TEST_F(RegisterTest, WhoComesSecondHearsWhatStands) {
  EXPECT_EQ(said(azure_.decisions.take_over(Decision::kCommit, soon(), never_)), "commit");
  auto stands = aws_.decisions.decide(Decision::kAbort, soon(), never_);
  ASSERT_TRUE(stands);
  auto error = decided_otherwise(aws_.decisions, *stands).error();
  EXPECT_EQ(error.code(), Errc::kAlreadyExists);
  EXPECT_THAT(error.message(), ::testing::HasSubstr("commit, says etcd f00 /transship"));
}

// ---- settle

TEST_F(RegisterTest, ARollbackIsAnAbortInTheRegister) {
  EXPECT_EQ(said(settle(aws_.decisions, quick(), hooks({}), never_)), "abort");
  EXPECT_EQ(withdrawals_, 0);
  EXPECT_EQ(said(aws_.journal->decision(kId)), "abort");
  EXPECT_EQ(said(azure_.decisions.take_over(Decision::kCommit, soon(), never_)), "abort");
}

TEST_F(RegisterTest, ARollbackTurnsIntoACommit) {
  EXPECT_EQ(said(azure_.decisions.take_over(Decision::kCommit, soon(), never_)), "commit");
  EXPECT_EQ(said(settle(aws_.decisions, quick(), hooks({}), never_)), "commit");
  EXPECT_EQ(said(aws_.journal->decision(kId)), "commit");
}

TEST_F(RegisterTest, WithoutTheArbiterTheDestinationsWordCounts) {
  aws_.arbiter.set(Link::kDown);
  EXPECT_EQ(said(settle(aws_.decisions, quick(), hooks({Decision::kAbort}), never_)), "abort");
  EXPECT_EQ(said(aws_.journal->decision(kId)), "abort");
}

TEST_F(RegisterTest, ItIsAskedUntilSomebodyAnswers) {
  aws_.arbiter.set(Link::kDown);
  on_withdraw_ = [&] {
    if (withdrawals_ == 3) aws_.arbiter.set(Link::kUp);
  };
  EXPECT_EQ(said(settle(aws_.decisions, quick(), hooks({}), never_)), "abort");
  EXPECT_EQ(withdrawals_, 3);
}

// Its own commit was written, but it did not hear of that; then it told the destination to end its copy, and did not
// hear of that either. Going forward now could be the end of both.
TEST_F(RegisterTest, AfterAWithdrawalCommitInTheRegisterIsNotEnough) {
  ASSERT_TRUE(aws_.decisions.check(soon(), never_));  // as before every freeze
  aws_.arbiter.set(Link::kAnswersLost);
  EXPECT_EQ(aws_.decisions.decide(Decision::kCommit, soon(), never_).error().code(), arbiter::kOutcomeUnknown);
  aws_.arbiter.set(Link::kUp);
  auto options = quick();
  options.commit_tried = true;
  options.destination_first = true;
  auto lost = [] { return Result<Decision>(fail(Errc::kTimeout, "lost")); };
  EXPECT_EQ(said(settle(aws_.decisions, options, hooks({lost(), lost(), Decision::kAbort}), never_)), "abort");
  EXPECT_EQ(withdrawals_, 1);
  EXPECT_EQ(commits_, 2) << "what is parked there is to run, if it can";
  EXPECT_EQ(said(aws_.journal->decision(kId)), "abort") << "and that is what it goes by";
}

// Not knowing whether the one before it has said Withdraw.
TEST_F(RegisterTest, TheNextDaemonAsksThoughTheRegisterSaysCommit) {
  EXPECT_EQ(said(azure_.decisions.take_over(Decision::kCommit, soon(), never_)), "commit");
  auto options = quick();
  options.withdrawn = true;
  auto silent = [] { return Result<Decision>(fail(Errc::kUnavailable, "silent")); };
  EXPECT_EQ(said(settle(aws_.decisions, options, hooks({silent(), Decision::kCommit}), never_)), "commit");
  EXPECT_EQ(withdrawals_, 0);
  EXPECT_EQ(commits_, 2);
}

// Rule 5: the destination has ended its copy, whatever the journal says.
TEST_F(RegisterTest, WithoutAnArbiterTheDestinationsWordStandsOverACommit) {
  DecisionRegister alone(*aws_.journal, nullptr, kId, "");
  ASSERT_TRUE(aws_.journal->decide(kId, Decision::kCommit));
  auto options = quick();
  options.withdrawn = true;
  EXPECT_EQ(said(settle(alone, options, hooks({Decision::kAbort}), never_)), "abort");
  EXPECT_EQ(commits_, 1);
  EXPECT_EQ(said(alone.decision(soon(), never_)), "abort");
}

TEST_F(RegisterTest, WithoutItsMemoryADestinationTakesOverWithAnAbort) {
  EXPECT_EQ(said(azure_.decisions.take_over(Decision::kAbort, soon(), never_)), "abort");
  EXPECT_EQ(said(aws_.decisions.decide(Decision::kCommit, soon(), never_)), "abort");
}

TEST_F(RegisterTest, AnAbortInTheRegisterIsAlwaysEnough) {
  EXPECT_EQ(said(azure_.decisions.decide(Decision::kAbort, soon(), never_)), "abort");
  auto options = quick();
  options.withdrawn = true;
  EXPECT_EQ(said(settle(aws_.decisions, options, hooks({}), never_)), "abort");
}

TEST_F(RegisterTest, ADaemonThatEndsLeavesItOpen) {
  aws_.arbiter.set(Link::kDown);
  Cancel end = *Cancel::create();
  on_withdraw_ = [&] { end.cancel("the daemon ends"); };
  EXPECT_EQ(settle(aws_.decisions, quick(), hooks({}), end).error().code(), Errc::kCancelled);
  EXPECT_EQ(said(aws_.journal->decision(kId)), "nothing");
}

TEST_F(RegisterTest, WithoutAnArbiterACommitThatStandsIsFound) {
  DecisionRegister alone(*aws_.journal, nullptr, kId, "");
  ASSERT_TRUE(aws_.journal->decide(kId, Decision::kCommit));
  EXPECT_EQ(said(settle(alone, quick(), hooks({}), never_)), "commit");
  EXPECT_EQ(withdrawals_, 0);
}

}  // namespace
}  // namespace transship::migrate
