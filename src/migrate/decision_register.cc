#include "migrate/decision_register.h"

#include "base/log.h"

namespace transship::migrate {
namespace {

constexpr milliseconds kHoldLimit{5000};
constexpr milliseconds kRetireLimit{2000};
// For one question while everybody waits frozen; it is asked again.
constexpr milliseconds kSettleLimit{3000};
constexpr milliseconds kLogEvery{10'000};

}  // namespace

DecisionRegister::DecisionRegister(state::Store& journal, arbiter::Arbiter* arbiter, std::string move_id,
                                   std::string identity)
    : journal_(journal), arbiter_(arbiter), move_id_(std::move(move_id)), identity_(std::move(identity)) {}

Result<std::unique_ptr<DecisionRegister>> DecisionRegister::of_unknown(state::Store& journal, arbiter::Arbiter* arbiter,
                                                                       const std::string& move_id, Deadline deadline,
                                                                       const Cancel& cancel) {
  std::string identity;
  if (arbiter != nullptr) {
    TS_TRY_ASSIGN(auto health, arbiter->check(deadline, cancel));
    identity = health.identity;
  }
  return std::make_unique<DecisionRegister>(journal, arbiter, move_id, identity);
}

// Another cluster, or none, has another register: nothing that it says is about this move.
Result<> DecisionRegister::check_arbiter(Deadline deadline, const Cancel& cancel) {
  auto health =
      arbiter_ == nullptr ? Result<arbiter::Health>(arbiter::Health{"none", {}}) : arbiter_->check(deadline, cancel);
  if (!health) return std::unexpected(Error(arbiter::kOutcomeUnknown, health.error().message()));
  if (health->identity != identity_)
    return std::unexpected(
        Error(arbiter::kOutcomeUnknown, fmt::format("the arbiter of this move is {}, and this node's is "
                                                    "{}",
                                                    identity_, health->identity))
            .with_remedy("configure [arbiter] as it was, until the move has ended"));
  checked_ = true;
  return {};
}

Result<> DecisionRegister::check_once(Deadline deadline, const Cancel& cancel) {
  return checked_ ? Result<>() : check_arbiter(deadline, cancel);
}

Result<> DecisionRegister::check(Deadline deadline, const Cancel& cancel) {
  return has_arbiter() ? check_arbiter(deadline, cancel) : Result<>();
}

Result<Decision> DecisionRegister::decide_in_journal(Decision wanted) {
  auto written = journal_.decide(move_id_, wanted);
  if (written) return wanted;
  auto stands = journal_.decision(move_id_);
  if (stands && *stands) return **stands;
  return std::unexpected(Error(arbiter::kOutcomeUnknown, written.error().message()).context("journal"));
}

Result<Decision> DecisionRegister::decide(Decision wanted, Deadline deadline, const Cancel& cancel) {
  if (!has_arbiter()) return decide_in_journal(wanted);
  TS_TRY_ASSIGN(auto copy, journal_.decision(move_id_));
  if (copy) return *copy;
  TS_TRY(check_once(deadline, cancel));
  return arbiter_->decide(move_id_, wanted, deadline, cancel);
}

Result<Decision> DecisionRegister::decide_by_hand(Decision wanted, bool arbiter_is_gone, Deadline deadline,
                                                  const Cancel& cancel) {
  if (!arbiter_is_gone) {
    auto stands = decide(wanted, deadline, cancel);
    if (stands || !has_arbiter()) return stands;
    return std::unexpected(Error(stands.error().code(), stands.error().message())
                               .with_remedy("bring the arbiter back: the move ends by itself then. If it is gone for "
                                            "good, say the same on both nodes, with --without-arbiter"));
  }
  if (auto answer = decision(deadline, cancel))
    return std::unexpected(Error(Errc::kRefused, fmt::format("the arbiter of move {} answers", move_id_))
                               .with_remedy("say it without --without-arbiter"));
  TS_TRY(keep(wanted));
  return wanted;
}

Result<std::optional<Decision>> DecisionRegister::decision(Deadline deadline, const Cancel& cancel) {
  TS_TRY_ASSIGN(auto copy, journal_.decision(move_id_));
  if (copy || !has_arbiter()) return copy;
  TS_TRY(check_once(deadline, cancel));
  return arbiter_->decision(move_id_, deadline, cancel);
}

Result<std::optional<Decision>> DecisionRegister::take_over(Decision wanted, Deadline deadline, const Cancel& cancel) {
  if (!has_arbiter()) return std::nullopt;
  TS_TRY_ASSIGN(auto copy, journal_.decision(move_id_));
  if (copy) return copy;
  TS_TRY(check_once(deadline, cancel));
  return arbiter_->take_over(move_id_, wanted, deadline, cancel);
}

Result<std::unique_ptr<arbiter::SourceHold>> DecisionRegister::hold_source(const Cancel& cancel) {
  if (!has_arbiter()) return std::unique_ptr<arbiter::SourceHold>();
  auto deadline = Deadline::in(kHoldLimit);
  TS_TRY(check_once(deadline, cancel));
  return arbiter_->hold_source(move_id_, deadline, cancel);
}

Result<> DecisionRegister::keep(Decision decision) { return journal_.decide(move_id_, decision); }

Result<> DecisionRegister::keep_word(Decision word) {
  return word == Decision::kAbort ? journal_.abort_after_all(move_id_) : journal_.decide(move_id_, word);
}

std::unexpected<Error> decided_otherwise(const DecisionRegister& decisions, Decision stands) {
  auto where = decisions.has_arbiter() ? decisions.identity() : std::string("the journal");
  return fail(Errc::kAlreadyExists, "move {} was decided already: {}, says {}. That is what becomes of it now",
              decisions.move_id(), state::decision_name(stands), where);
}

void DecisionRegister::retire() {
  auto never = Cancel::create();
  if (!has_arbiter() || arbiter_ == nullptr || !never) return;
  if (auto r = arbiter_->retire(move_id_, Deadline::in(kRetireLimit), *never); !r)
    TS_LOG_INFO("mig={} arbiter: its decision stays for good: {}", move_id_, r.error().message());
}

namespace {

// One try. nullopt: it is still not known.
class Settling {
 public:
  Settling(DecisionRegister& decisions, const SettleOptions& options, const SettleHooks& hooks, const Cancel& end)
      : decisions_(decisions),
        hooks_(hooks),
        end_(end),
        withdrawn_(options.withdrawn),
        commit_tried_(options.commit_tried) {}

  std::optional<Decision> by_register() {
    auto stands = decisions_.decide(Decision::kAbort, Deadline::in(kSettleLimit), end_);
    // Nobody but this source writes, and it will not: as good as written.
    if (!stands && !decisions_.has_arbiter() && !commit_tried_) stands = Decision::kAbort;
    if (!stands) return unknown(stands.error());
    committed_ = *stands == Decision::kCommit;
    // Should it fail, the register still says so.
    log_unless(decisions_.keep(*stands));
    if (committed_ && withdrawn_) return obeyed(hooks_.commit());
    return *stands;
  }

  // Not where the register says *commit*: what is parked there is to run.
  std::optional<Decision> by_destination() {
    if (committed_) return std::nullopt;
    withdrawn_ = true;
    return obeyed(hooks_.withdraw());
  }

  void log() {
    if (!next_log_.passed()) return;
    next_log_ = Deadline::in(kLogEvery);
    TS_LOG_WARN("mig={} stands still: it is not known what was decided: {}", decisions_.move_id(), reason_);
  }

 private:
  std::optional<Decision> unknown(const Error& error) {
    reason_ = error.message();
    return std::nullopt;
  }
  void log_unless(const Result<>& kept) {
    if (!kept) TS_LOG_ERROR("mig={} journal: {}", decisions_.move_id(), kept.error().message());
  }
  // The destination's word counts also where it cannot be written: a daemon after this one asks for it again.
  std::optional<Decision> obeyed(const Result<Decision>& word) {
    if (!word) return unknown(word.error());
    log_unless(decisions_.keep_word(*word));
    return *word;
  }
  DecisionRegister& decisions_;
  const SettleHooks& hooks_;
  const Cancel& end_;
  bool withdrawn_;
  bool committed_ = false;  // says the register
  const bool commit_tried_;
  std::string reason_;
  Deadline next_log_ = Deadline::in(milliseconds(0));
};

}  // namespace

Result<Decision> settle(DecisionRegister& decisions, const SettleOptions& options, const SettleHooks& hooks,
                        const Cancel& end) {
  Settling settling(decisions, options, hooks, end);
  bool register_first = !options.destination_first;
  while (true) {
    TS_TRY(end.check());
    std::optional<Decision> known;
    if (register_first) known = settling.by_register();
    register_first = true;
    if (!known && !end.cancelled()) known = settling.by_destination();
    if (known) return *known;
    settling.log();
    TS_TRY(sleep_for(options.pause, end));
  }
}

}  // namespace transship::migrate
