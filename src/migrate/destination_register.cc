// A parked destination and the arbiter: reads the register, and takes the move over when its source is gone for good.
#include "base/log.h"
#include "migrate/destination.h"

namespace transship::migrate {
namespace {

// The source's own word comes within milliseconds, unless something is wrong.
constexpr milliseconds kWatchAfter{2000};
constexpr milliseconds kWatchEvery{1000};
constexpr milliseconds kAskLimit{3000};
constexpr milliseconds kLogEvery{10'000};

}  // namespace

// Both nodes must look into the same register, or into none.
Result<> DestinationMove::agree_on_arbiter(const std::string& sources) {
  auto refused = [&](const std::string& why) {
    return std::unexpected(
        Error(Errc::kRefused, why).with_remedy("have the same [arbiter] in the configuration of both nodes, or none"));
  };
  if (!services_.arbiter && !sources.empty())
    return refused(
        fmt::format("{} decides this move by {}, {} has no arbiter", source_, sources, services_.settings.node));
  if (services_.arbiter && sources.empty())
    return refused(fmt::format("{} decides its moves by an arbiter, {} does not", services_.settings.node, source_));
  decisions_ = std::make_unique<DecisionRegister>(*services_.store, services_.arbiter.get(), id_, sources);
  if (auto r = decisions_->check(Deadline::in(kAskLimit), cancel_); !r) return refused(r.error().message());
  return {};
}

// Beside ask_source(), as long as it is parked.
void DestinationMove::watch_register() {
  for (auto pause = kWatchAfter; sleep_for(pause, end_); pause = kWatchEvery) {
    if (state_text() != "parked") return;
    if (obey_register()) return;
  }
}

// True: it is over.
bool DestinationMove::obey_register() {
  // Without its memory, or with a part of it still there, it could not do without its source.
  bool could_run = !standing().post_copy && lost().empty();
  auto stands = decisions_->take_over(could_run ? Decision::kCommit : Decision::kAbort, Deadline::in(kAskLimit), end_);
  if (!stands) {
    if (log_register_.passed()) TS_LOG_WARN("mig={} arbiter: {}", id_, stands.error().message());
    if (log_register_.passed()) log_register_ = Deadline::in(kLogEvery);
    return false;
  }
  if (!*stands) return false;
  TS_LOG_WARN("mig={} arbiter: {} decides to {} the move", id_, decisions_->identity(), state::decision_name(**stands));
  // A release that failed is tried again.
  if (**stands == Decision::kCommit) return commit(true).has_value();
  return abort("the arbiter says abort").has_value();
}

Result<> DestinationMove::begin_commit(bool by_register) {
  {
    MutexLock lock(mu_);
    if (withdrawn_) return fail(Errc::kRefused, "{} has taken the move back", source_);
    committed_ = true;
  }
  // Should this host go down the moment after, what it says of the move must not be that it never ran here.
  if (by_register) {
    if (auto r = decisions_->keep(Decision::kCommit); !r) TS_LOG_ERROR("mig={} journal: {}", id_, r.error().message());
  }
  return {};
}

Result<Decision> DestinationMove::withdraw(const std::string& reason) {
  {
    MutexLock lock(mu_);
    if (state_ == State::kRunning) return Decision::kCommit;
    // The source's own tasks die by this answer.
    if (committed_) return fail(Errc::kUnavailable, "{} is to run here, and does not yet", wanted_.name);
    withdrawn_ = true;
  }
  // For a daemon that comes after a kill -9 of this one: the source may thaw as soon as it hears of it.
  if (auto r = decisions_->keep(Decision::kAbort); !r) {
    MutexLock lock(mu_);
    if (state_ != State::kAborted) withdrawn_ = false;
    return std::unexpected(std::move(r).error());
  }
  TS_TRY(abort(reason));
  return Decision::kAbort;
}

}  // namespace transship::migrate
