// Where a move stands on either side, as data: which state may follow which, and what a person has to know of each.
// docs/design/0010-handover.md has the rules that these states serve. Pure; the journal keeps the names.
//
//   source       copying ---> frozen ---> asked ---> committed ---> done
//                   |            |          |            |
//                   +------------+----------+------------+-----> rolled-back    (the last: rule 5)
//
//   destination  reserved -> staged -> starting -> parked -> running -> done
//                   |          |          |          |          |
//                   +----------+----------+----------+          +-----> lost
//                                                    +-------> aborted
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "state/store.h"

namespace transship::migrate {

enum class SourceState {
  kInvalid = 0,
  kCopying,    // the container runs
  kFrozen,     // it stands still; nobody else could run it yet
  kAsked,      // it stands still, and Restore has been said: the destination may be ready
  kCommitted,  // it belongs to the destination; here it dies, or is dead, unless that has ended its copy
  kDone,
  kRolledBack,  // it runs here again
};

enum class DestinationState {
  kInvalid = 0,
  kReserved,
  kStaged,    // the engine has created it; it was never started
  kStarting,  // the engine's start waits at the gate
  kParked,    // restored; it stands still, its network is shut
  kRunning,
  kDone,
  kLost,     // committed, and then its memory could not be completed
  kAborted,  // nothing of it is here any more
};

std::string_view state_name(SourceState state);
std::string_view state_name(DestinationState state);
// kInvalid: no such name.
SourceState source_state(std::string_view name);
DestinationState destination_state(std::string_view name);

bool may_follow(SourceState from, SourceState to);
bool may_follow(DestinationState from, DestinationState to);
// An end: nothing follows.
bool is_end(SourceState state);
bool is_end(DestinationState state);

// Which state the source is in from the beginning of this phase of its on; kInvalid: no such phase.
SourceState state_in_phase(std::string_view phase);

// What the other node said last of a move, and what is in the way since. Whoever has one guards it.
struct LastWord {
  std::string text;     // a sentence's end: "has not decided yet"; empty: none
  int64_t ms = 0;       // UNIX time
  std::string problem;  // why there was no other one, a sentence; empty: nothing is known
  void said(std::string what, int64_t now_ms) { *this = {std::move(what), now_ms, {}}; }
  void failed(const Error& why) { problem = why.message(); }
};

// What is known of one move on one node.
struct Standing {
  std::string move_id;
  std::string container;  // "podman:redis"
  std::string here;       // this node
  std::string peer;
  SourceState source = SourceState::kInvalid;  // one of the two
  DestinationState destination = DestinationState::kInvalid;
  bool post_copy = false;    // its memory is still on the source
  bool unconfirmed = false;  // a source that has committed, and stands still until the destination says that it runs
  bool arbiter = false;      // which decides; otherwise the source's journal
  int64_t since_ms = 0;      // UNIX time: the state was reached; 0: not known
  LastWord last_word;        // of the peer
};

// One paragraph for the operator: where it stands, who has the container, what is waited for, what can be done. Empty
// when the move is over and there is nothing to explain.
std::string explain(const Standing& standing, int64_t now_ms);
// What an operator decides with `transship resolve`.
struct OperatorsWord {
  state::Decision decision = state::Decision::kAbort;
  bool without_arbiter = false;  // which is gone for good, says the operator
};
// What `transship resolve` would do, and what must be so before anybody does it; an error (kRefused, with the reason)
// when that is not possible in this state.
Result<std::string> risk_of(const Standing& standing, state::Decision wanted);
Result<std::string> risk_of(const Standing& standing, const OperatorsWord& word);

}  // namespace transship::migrate
