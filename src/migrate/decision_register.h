// Where the one decision of a move is written and read, with or without an arbiter (docs/design/0010-handover.md).
//
//   without: the source's journal is the register.
//   with:    the arbiter is. The journal keeps a copy of what it says, or of *abort* that the destination has answered
//            (rule 5); the copy wins, since it is only ever made of what cannot become untrue.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "arbiter/arbiter.h"
#include "state/store.h"

namespace transship::migrate {

using state::Decision;
struct Services;

// Of one move. A value that borrows journal and arbiter. Thread-safe.
class DecisionRegister {
 public:
  // `identity`: of the arbiter that the two nodes have agreed on; empty: none. When this node's is another one (its
  // configuration has changed since) nothing is known and nothing can be decided: kOutcomeUnknown.
  DecisionRegister(state::Store& journal, arbiter::Arbiter* arbiter, std::string move_id, std::string identity);
  // Of a move of which nothing is known but its id: by whatever register this node has now.
  static Result<std::unique_ptr<DecisionRegister>> of_unknown(state::Store& journal, arbiter::Arbiter* arbiter,
                                                              const std::string& move_id, Deadline deadline,
                                                              const Cancel& cancel);
  bool has_arbiter() const { return !identity_.empty(); }
  const std::string& identity() const { return identity_; }
  const std::string& move_id() const { return move_id_; }

  // Writes, unless something stands already, and says what stands. kOutcomeUnknown (or kCancelled): perhaps it was
  // written. Does not make the copy: see keep().
  Result<Decision> decide(Decision wanted, Deadline deadline, const Cancel& cancel);
  // An operator's, who is one more who writes. With `arbiter_is_gone`: a copy without an original; kRefused while the
  // arbiter answers.
  Result<Decision> decide_by_hand(Decision wanted, bool arbiter_is_gone, Deadline deadline, const Cancel& cancel);
  // What stands; nullopt: nothing yet.
  Result<std::optional<Decision>> decision(Deadline deadline, const Cancel& cancel);
  // A parked destination's (arbiter.h). Without an arbiter there is nothing to be said: nullopt.
  Result<std::optional<Decision>> take_over(Decision wanted, Deadline deadline, const Cancel& cancel);
  // nullptr without an arbiter.
  Result<std::unique_ptr<arbiter::SourceHold>> hold_source(const Cancel& cancel);
  // The arbiter answers, and is the agreed one.
  Result<> check(Deadline deadline, const Cancel& cancel);
  // On disk when it returns: what stands.
  Result<> keep(Decision decision);
  // The same by the destination's word, which is good for more than what stands (rule 5).
  Result<> keep_word(Decision word);
  // Both sides know, and have ended it. Tries once.
  void retire();

 private:
  Result<> check_once(Deadline deadline, const Cancel& cancel);
  Result<> check_arbiter(Deadline deadline, const Cancel& cancel);
  Result<Decision> decide_in_journal(Decision wanted);

  state::Store& journal_;
  arbiter::Arbiter* arbiter_;
  const std::string move_id_;
  const std::string identity_;
  std::atomic<bool> checked_ = false;  // what the arbiter is cannot change any more
};

// What an operator hears who wanted the other one: the first who wrote has decided.
std::unexpected<Error> decided_otherwise(const DecisionRegister& decisions, Decision stands);

// How a source that has said Restore, and whose move then failed, finds out which of the two it is. Frozen meanwhile.
struct SettleHooks {
  // Says Withdraw to the destination. *Abort*: its tasks are dead; *commit*: the container runs there. An error: no
  // answer, or it knows nothing of the move.
  std::function<Result<Decision>()> withdraw;
  // Says Commit to it, with the same answers.
  std::function<Result<Decision>()> commit;
};
struct SettleOptions {
  // Withdraw was said and not answered, or may have been, by a daemon before this one: the destination may have ended
  // its copy, so that *commit* in the register is not enough any more, and only its answer counts (rule 7).
  bool withdrawn = false;
  // *Commit* may have been written by this source. Otherwise, without an arbiter, nothing was and nothing will be.
  bool commit_tried = false;
  // The arbiter has just failed to answer: the other way first.
  bool destination_first = false;
  milliseconds pause{500};
};
// Writes *abort*, or reads what stands instead, and asks the destination when the register does not answer; as long as
// it takes. With a copy in the journal when it returns. kCancelled: `end` fired, and it is still not known: the
// container must stay frozen.
Result<Decision> settle(DecisionRegister& decisions, const SettleOptions& options, const SettleHooks& hooks,
                        const Cancel& end);

}  // namespace transship::migrate
