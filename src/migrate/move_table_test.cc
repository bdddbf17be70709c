#include "migrate/move_table.h"

#include <gtest/gtest.h>

#include "arbiter/fake_arbiter.h"
#include "migrate/test_node.h"

namespace transship::migrate {
namespace {

using arbiter::testing::FakeArbiter;
using arbiter::testing::FakeRegister;

constexpr const char* kId = "0123456789";

// aws, which had something to do with moves that are over; azure asks.
class MoveTableTest : public ::testing::Test {
 protected:
  void over(const std::string& role, const std::string& state, const std::string& phase) {
    state::Move m;
    m.id = kId;
    m.container = "podman:redis";
    m.role = role;
    (role == "source" ? m.to : m.from) = "azure";
    m.state = state;
    m.phase = phase;
    m.started_ms = 1;
    m.ended_ms = state == "running" ? 0 : 2;
    ASSERT_TRUE(node_.services.store->put_move(m, false));
  }
  void by_arbiter() { node_.services.arbiter = std::make_unique<FakeArbiter>(shared_); }
  std::string withdrawn(const std::string& peer = "azure") { return word(moves_.withdraw(kId, peer)); }
  std::string decision() { return word(moves_.decision(kId, "azure")); }
  std::string ended(const std::string& peer = "azure") {
    auto r = moves_.ended_here(kId, peer);
    return r ? "done" : std::string(errc_name(r.error().code()));
  }
  std::string kept() {
    auto r = node_.services.store->decision(kId);
    return !r || !*r ? "nothing" : std::string(state::decision_name(**r));
  }
  static std::string word(const Result<peer::Decision>& r) {
    return r ? peer::Decision_Name(*r) : std::string(errc_name(r.error().code()));
  }
  std::shared_ptr<FakeRegister> shared_ = std::make_shared<FakeRegister>();
  testing::AwsNode node_{"azure", "openstack"};
  MoveTable moves_{node_.services};
};

// ---- of what arrived here

TEST_F(MoveTableTest, OfAMoveThatItDoesNotKnowItSaysNothing) {
  EXPECT_EQ(withdrawn(), "not_found");
  EXPECT_EQ(ended(), "not_found");
  over("destination", "rolled-back", "aborted");
  EXPECT_EQ(withdrawn("openstack"), "not_found") << "it is not its move";
  EXPECT_EQ(ended("openstack"), "not_found");
  EXPECT_EQ(kept(), "nothing");
}

TEST_F(MoveTableTest, ItsWordIsWrittenDownBeforeItIsSaid) {
  over("destination", "rolled-back", "aborted");
  EXPECT_EQ(ended(), "cancelled");
  EXPECT_EQ(withdrawn(), "DECISION_ABORT");
  EXPECT_EQ(kept(), "abort");
}

TEST_F(MoveTableTest, WhatHasRunHereIsNotTakenBack) {
  over("destination", "done", "running");
  EXPECT_EQ(ended(), "done");
  EXPECT_EQ(withdrawn(), "DECISION_COMMIT");
}

TEST_F(MoveTableTest, WhatHasRunAndIsLostIsNotTakenBackEither) {
  over("destination", "failed", "running");
  EXPECT_EQ(ended(), "corrupt");
  EXPECT_EQ(withdrawn(), "DECISION_COMMIT");
}

TEST_F(MoveTableTest, WhatWasParkedWhenItsHostWentDownHasNeverRun) {
  over("destination", "failed", "parked");
  EXPECT_EQ(withdrawn(), "DECISION_ABORT");
  EXPECT_EQ(ended(), "cancelled") << "and it stays with that";
}

TEST_F(MoveTableTest, WhatIsNotOverAndNotKnownIsNoAnswer) {
  over("destination", "running", "parked");
  EXPECT_EQ(withdrawn(), "unavailable");
  EXPECT_EQ(kept(), "nothing");
}

TEST_F(MoveTableTest, TheAnswerIsKeptLongerThanTheMove) {
  over("destination", "rolled-back", "aborted");
  EXPECT_EQ(withdrawn(), "DECISION_ABORT");
  ASSERT_TRUE(node_.services.store->prune_moves(0));
  EXPECT_EQ(withdrawn(), "DECISION_ABORT");
  EXPECT_EQ(ended(), "cancelled");
}

// ---- of what left

TEST_F(MoveTableTest, WhatNobodyWorksOnAnyMoreIsAborted) {
  EXPECT_EQ(decision(), "DECISION_ABORT");
  EXPECT_EQ(kept(), "nothing") << "of a move that was never made";
  over("source", "rolled-back", "restore");
  EXPECT_EQ(decision(), "DECISION_ABORT");
  EXPECT_EQ(kept(), "abort");
}

TEST_F(MoveTableTest, UnlessTheArbiterSaysOtherwise) {
  by_arbiter();
  over("source", "rolled-back", "restore");
  {
    MutexLock lock(shared_->mu);
    shared_->decisions[kId] = Decision::kCommit;
  }
  EXPECT_EQ(decision(), "DECISION_COMMIT");
  EXPECT_EQ(kept(), "commit");
}

TEST_F(MoveTableTest, AnArbiterThatDoesNotAnswerIsNoAnswer) {
  by_arbiter();
  static_cast<FakeArbiter*>(node_.services.arbiter.get())->set(FakeArbiter::Link::kDown);
  over("source", "rolled-back", "restore");
  EXPECT_EQ(decision(), "unavailable");
  EXPECT_EQ(kept(), "nothing");
}

}  // namespace
}  // namespace transship::migrate
