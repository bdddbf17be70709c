// The decision of a source's move: written, or found out. The container stands still, and may be ready elsewhere.
#include "migrate/source_decision.h"

#include "base/log.h"
#include "migrate/source.h"

namespace transship::migrate {
namespace {

// An election in etcd takes one or two seconds.
constexpr milliseconds kDecideLimit{5000};
constexpr milliseconds kReadyLimit{3000};
// The destination ends what it is in the middle of, and kills the tasks, before it answers.
constexpr milliseconds kWithdrawLimit{15'000};
constexpr milliseconds kConnectLimit{3000};

Result<peer::Reply> ask_once(const Services& services, const std::string& peer, const peer::Request& request,
                             const Cancel& cancel) {
  TS_TRY_ASSIGN(wire::PeerTarget target, services.peer(peer));
  TS_TRY_ASSIGN(auto session, PeerSession::connect(services.identity, target, services.settings.node,
                                                   Deadline::in(kConnectLimit), cancel));
  return session->call(request, Deadline::in(kWithdrawLimit), cancel);
}

}  // namespace

Result<Decision> withdraw_from(const Services& services, const std::string& peer, const std::string& move_id,
                               const Cancel& cancel) {
  peer::Request request;
  request.mutable_withdraw()->set_move_id(move_id);
  TS_TRY_ASSIGN(peer::Reply reply, ask_once(services, peer, request, cancel));
  auto said = reply.decision().decision();
  if (said == peer::DECISION_COMMIT) return Decision::kCommit;
  if (said == peer::DECISION_ABORT) return Decision::kAbort;
  return fail(Errc::kPeerProtocol, "{} answers neither commit nor abort", peer);
}

Result<Decision> commit_at(const Services& services, const std::string& peer, const std::string& move_id,
                           const Cancel& cancel) {
  peer::Request request;
  request.mutable_commit()->set_move_id(move_id);
  auto reply = ask_once(services, peer, request, cancel);
  if (reply) return Decision::kCommit;
  TS_TRY(cancel.check());
  if (reply.error().code() != Errc::kCancelled) return std::unexpected(std::move(reply).error());
  // It has ended the move, it says. Its word for that is the answer to another question.
  return withdraw_from(services, peer, move_id, cancel);
}

// While it still runs: an arbiter that does not answer is not to be noticed when it stands still.
Result<> SourceMove::check_arbiter() {
  if (!source_hold_) return {};
  TS_TRY_CTX(source_hold_->check(), "arbiter");
  TS_TRY_CTX(decisions_->check(Deadline::in(kReadyLimit), cancel_), "arbiter");
  return {};
}

// From here on nobody but the register knows who may run it.
Result<> SourceMove::begin_asking() {
  TS_TRY(save());
  asked_ = true;
  return {};
}

Result<> SourceMove::write_commit() {
  commit_tried_ = true;
  auto stands = decisions_->decide(Decision::kCommit, Deadline::in(kDecideLimit), leaving_);
  if (!stands) {
    register_silent_ = decisions_->has_arbiter();
    return std::unexpected(std::move(stands).error().context("write the decision"));
  }
  if (*stands == Decision::kAbort) return fail(Errc::kRefused, "the register of move {} says abort already", id());
  keep_commit();
  return {};
}

// The copy in the journal: beside all else, nobody waits for it.
void SourceMove::keep_commit() {
  if (!decisions_->has_arbiter()) return;
  copy_thread_ = Thread("journal-copy", [this] {
    if (auto r = decisions_->keep(Decision::kCommit); !r) TS_LOG_ERROR("mig={} journal: {}", id(), r.error().message());
  });
}

// What failed after Restore was said is undone only when the register says *abort*: a result without an error is
// *commit*, and there is only forward.
Result<> SourceMove::settle_failed(Error error) {
  {
    MutexLock lock(mu_);
    decided_ = true;  // nobody can call it off: it is being found out
  }
  TS_LOG_WARN("mig={} phase={} {}: what does the register say?", id(), reporter_.phase(), error.message());
  SettleOptions options;
  options.commit_tried = commit_tried_;
  options.destination_first = register_silent_;
  SettleHooks hooks;
  hooks.withdraw = [this] { return withdraw_from(services_, request_.peer, id(), leaving_); };
  hooks.commit = [this] { return commit_at(services_, request_.peer, id(), leaving_); };
  auto known = settle(*decisions_, options, hooks, leaving_);
  if (known && *known == Decision::kCommit) {
    TS_LOG_WARN("mig={} phase={} it is committed: forward", id(), reporter_.phase());
    forward_ = true;
    taking_thread_.join();
    return {};
  }
  MutexLock lock(mu_);
  decided_ = false;
  aborted_ = known.has_value();
  return std::unexpected(std::move(error));
}

bool SourceMove::undecided() const { return asked_ && !aborted_; }

// The daemon ends, and nobody has said what was decided: it stays frozen, and the next daemon finds out.
void SourceMove::leave_undecided() {
  TS_LOG_WARN("mig={} {} stands still: it is not known what was decided, the next daemon asks again", id(),
              container());
  dump_->keep_frozen();
  tmpfs_.keep();
}

// Both sides have ended it. `agreed`: and both know how.
void SourceMove::end_with_arbiter(bool agreed) {
  source_hold_.reset();
  copy_thread_.join();
  if (agreed && decisions_) decisions_->retire();
}

}  // namespace transship::migrate
