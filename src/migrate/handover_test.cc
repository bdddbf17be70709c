#include "migrate/handover.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <vector>

namespace transship::migrate {
namespace {

using state::Decision;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr std::array kSource{SourceState::kCopying,   SourceState::kFrozen, SourceState::kAsked,
                             SourceState::kCommitted, SourceState::kDone,   SourceState::kRolledBack};
constexpr std::array kDestination{DestinationState::kReserved, DestinationState::kStaged,  DestinationState::kStarting,
                                  DestinationState::kParked,   DestinationState::kRunning, DestinationState::kDone,
                                  DestinationState::kLost,     DestinationState::kAborted};

Standing on_source(SourceState state) {
  Standing s;
  s.move_id = "m1";
  s.container = "podman:redis";
  s.here = "aws";
  s.peer = "azure";
  s.source = state;
  return s;
}
Standing on_destination(DestinationState state) {
  Standing s = on_source(SourceState::kInvalid);
  s.here = "azure";
  s.peer = "aws";
  s.destination = state;
  return s;
}

TEST(Handover, EveryStateHasANameOfItsOwn) {
  for (auto s : kSource) EXPECT_EQ(source_state(state_name(s)), s);
  for (auto s : kDestination) EXPECT_EQ(destination_state(state_name(s)), s);
  EXPECT_EQ(source_state("parked"), SourceState::kInvalid);
  EXPECT_EQ(destination_state(""), DestinationState::kInvalid);
}

TEST(Handover, FromEveryStateThereIsAnEndAndNothingLeadsBack) {
  for (auto from : kSource) {
    for (auto to : kSource) EXPECT_FALSE(may_follow(from, to) && to <= from);
    std::vector<SourceState> reached{from};
    for (size_t i = 0; i < reached.size(); ++i)
      for (auto to : kSource)
        if (may_follow(reached[i], to)) reached.push_back(to);
    EXPECT_TRUE(is_end(reached.back()));
  }
  for (auto from : kDestination)
    for (auto to : kDestination) EXPECT_FALSE(may_follow(from, to) && to <= from);
}

// Rules 1 to 3 of the design, as far as the states alone can keep them.
TEST(Handover, WhatMustNotFollow) {
  EXPECT_FALSE(may_follow(SourceState::kDone, SourceState::kRolledBack));
  EXPECT_FALSE(may_follow(SourceState::kFrozen, SourceState::kCommitted));
  EXPECT_FALSE(may_follow(SourceState::kCopying, SourceState::kCommitted));
  EXPECT_FALSE(may_follow(SourceState::kRolledBack, SourceState::kCommitted));
  EXPECT_FALSE(may_follow(DestinationState::kStarting, DestinationState::kRunning));
  EXPECT_FALSE(may_follow(DestinationState::kAborted, DestinationState::kRunning));
  EXPECT_FALSE(may_follow(DestinationState::kRunning, DestinationState::kAborted));
}

TEST(Handover, PhasesOfTheSource) {
  EXPECT_EQ(state_in_phase("memory"), SourceState::kCopying);
  EXPECT_EQ(state_in_phase("dump"), SourceState::kFrozen);
  EXPECT_EQ(state_in_phase("restore"), SourceState::kAsked);
  EXPECT_EQ(state_in_phase("commit"), SourceState::kAsked);
  EXPECT_EQ(state_in_phase("release"), SourceState::kCommitted);
  EXPECT_EQ(state_in_phase("lunch"), SourceState::kInvalid);
}

TEST(Explain, AParkedContainerSaysWhoIsAskedAndWhatItSaidLast) {
  auto s = on_destination(DestinationState::kParked);
  s.since_ms = 100'000;
  EXPECT_THAT(explain(s, 190'000), HasSubstr("has stood still for 1 min 30 s"));
  EXPECT_THAT(explain(s, 190'000), HasSubstr("aws has said nothing of it yet"));
  EXPECT_THAT(explain(s, 190'000), HasSubstr("transship resolve m1 --commit"));
  s.last_word.said("has not decided yet", 130'000);
  s.last_word.failed(Error(Errc::kTimeout, "connect to aws: timed out"));
  EXPECT_THAT(explain(s, 190'000), HasSubstr("aws has not decided yet (1 min 00 s ago)"));
  EXPECT_THAT(explain(s, 190'000), HasSubstr("connect to aws: timed out."));
}

TEST(Explain, WithAnArbiterAParkedContainerWaitsForNobody) {
  auto s = on_destination(DestinationState::kParked);
  s.arbiter = true;
  EXPECT_THAT(explain(s, 1), Not(HasSubstr("resolve")));
  EXPECT_THAT(explain(s, 1), HasSubstr("runs here as soon as the arbiter knows that"));
  s.post_copy = true;
  EXPECT_THAT(explain(s, 1), HasSubstr("so is its memory"));
}

TEST(Explain, NothingWhenItIsOver) {
  EXPECT_THAT(explain(on_source(SourceState::kDone), 1), IsEmpty());
  EXPECT_THAT(explain(on_source(SourceState::kRolledBack), 1), IsEmpty());
  EXPECT_THAT(explain(on_destination(DestinationState::kAborted), 1), IsEmpty());
  for (auto state : {SourceState::kCopying, SourceState::kFrozen, SourceState::kAsked, SourceState::kCommitted})
    EXPECT_THAT(explain(on_source(state), 1), Not(IsEmpty()));
}

TEST(Resolve, TheRiskIsSaidForWhatIsUndecided) {
  auto parked = on_destination(DestinationState::kParked);
  EXPECT_THAT(risk_of(parked, Decision::kCommit).value(), HasSubstr("TWO COPIES"));
  EXPECT_THAT(risk_of(parked, Decision::kAbort).value(), HasSubstr("LOST"));
  auto asked = on_source(SourceState::kAsked);
  EXPECT_THAT(risk_of(asked, Decision::kAbort).value(), HasSubstr("TWO COPIES"));
  EXPECT_THAT(risk_of(asked, Decision::kCommit).value(), HasSubstr("LOST"));
}

// Rule 7: until the destination says that it runs there, it may be that it never will.
TEST(Resolve, WhatIsKeptFrozenUntilTheDestinationAnswersCanGoBack) {
  auto s = on_source(SourceState::kCommitted);
  s.unconfirmed = true;
  EXPECT_THAT(explain(s, 1), HasSubstr("until azure answers that it runs there"));
  EXPECT_THAT(risk_of(s, Decision::kAbort).value(), HasSubstr("TWO COPIES"));
  EXPECT_THAT(risk_of(s, Decision::kCommit).value(), HasSubstr("LOST"));
  s.arbiter = true;
  EXPECT_FALSE(risk_of(s, Decision::kAbort)) << "the register says commit";
  s.arbiter = false;
  s.post_copy = true;
  EXPECT_FALSE(risk_of(s, Decision::kAbort)) << "it may have run there";
  EXPECT_THAT(risk_of(s, Decision::kCommit).value(), HasSubstr("has not fetched"));
}

TEST(Resolve, WhatIsDecidedCannotBeResolved) {
  EXPECT_THAT(risk_of(on_source(SourceState::kCommitted), Decision::kAbort).error().message(),
              HasSubstr("nothing to go back to"));
  EXPECT_FALSE(risk_of(on_source(SourceState::kCopying), Decision::kCommit));
  for (auto state : kDestination)
    EXPECT_EQ(risk_of(on_destination(state), Decision::kCommit).has_value(), state == DestinationState::kParked);
}

TEST(Resolve, InPostCopyTheMemoryIsOnTheSource) {
  auto parked = on_destination(DestinationState::kParked);
  parked.post_copy = true;
  EXPECT_EQ(risk_of(parked, Decision::kCommit).error().code(), Errc::kRefused);
  EXPECT_TRUE(risk_of(parked, Decision::kAbort));
}

}  // namespace
}  // namespace transship::migrate
