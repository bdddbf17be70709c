#include "migrate/resumed_source.h"

#include "base/fault.h"
#include "base/log.h"
#include "base/wall_clock.h"
#include "criu/rescue.h"
#include "migrate/convert.h"
#include "migrate/entry_handover.h"
#include "migrate/give_back.h"
#include "migrate/source_decision.h"
#include "network/moved_connections.h"
#include "network/old_connections.h"
#include "sys/process.h"

namespace transship::migrate {
namespace {

constexpr milliseconds kConnectLimit{10'000};
constexpr milliseconds kForgetLimit{30'000};
constexpr milliseconds kForgetEvery{2'000};
constexpr milliseconds kEndLimit{10'000};
constexpr milliseconds kTellEvery{500};
constexpr milliseconds kResolveLimit{5'000};
constexpr milliseconds kConnectionsEnd{400};
constexpr milliseconds kSettleLimit{2'000};
// Without a word from the destination; as in a move that nothing has happened to.
constexpr milliseconds kPatience{60 * 60'000};

}  // namespace

ResumedSource::ResumedSource(Services& services, std::string move_id, journal::Leaving facts, Cancel end,
                             Cancel waiting)
    : services_(services),
      id_(std::move(move_id)),
      facts_(std::move(facts)),
      end_(std::move(end)),
      waiting_(std::move(waiting)),
      since_ms_(unix_ms_now()),
      decisions_(*services.store, services.arbiter.get(), id_, facts_.arbiter()) {}

ResumedSource::~ResumedSource() {
  end_.cancel("the daemon ends");
  waiting_.cancel("the daemon ends");
  thread_.join();
  if (!ended_) directory_.keep();
}

Result<std::unique_ptr<ResumedSource>> ResumedSource::start(Services& services, const std::string& move_id,
                                                            journal::Leaving facts) {
  TS_TRY_ASSIGN(Cancel end, Cancel::create());
  TS_TRY_ASSIGN(Cancel waiting, Cancel::create());
  std::unique_ptr<ResumedSource> move(
      new ResumedSource(services, move_id, std::move(facts), std::move(end), std::move(waiting)));
  TS_TRY_ASSIGN(move->directory_, sys::TmpfsMount::adopt(services.settings.run_dir + "/moves/" + move_id));
  if (auto known = services.store->decision(move_id); known && *known == Decision::kCommit) {
    MutexLock lock(move->mu_);
    move->state_ = SourceState::kCommitted;
    move->unconfirmed_ = move->tasks_live();
  }
  move->thread_ = Thread("move-resumed", [m = move.get()] { m->run(); });
  return move;
}

std::string ResumedSource::container() const { return fmt::format("{}:{}", facts_.engine(), facts_.container_id()); }

Standing ResumedSource::standing() const {
  Standing s;
  s.move_id = id_;
  s.container = facts_.container();
  s.here = services_.settings.node;
  s.peer = facts_.peer();
  s.post_copy = facts_.post_copy();
  MutexLock lock(mu_);
  s.source = state_;
  s.since_ms = since_ms_;
  s.unconfirmed = unconfirmed_;
  s.arbiter = decisions_.has_arbiter();
  s.last_word = last_word_;
  return s;
}

Result<> ResumedSource::resolve(const OperatorsWord& word) {
  auto now = standing();
  TS_TRY(risk_of(now, word));
  auto decision = word.decision;
  // Undecided: what the operator says is one more who writes, and the first one stands.
  auto stands = decision;
  if (now.source == SourceState::kAsked) {
    TS_TRY_ASSIGN(stands, decisions_.decide_by_hand(decision, word.without_arbiter, Deadline::in(kResolveLimit), end_));
    TS_TRY(decisions_.keep(stands));
  } else if (now.unconfirmed) {
    // The operator speaks for a destination that cannot.
    TS_TRY(decisions_.keep_word(decision));
  }
  if (stands != decision) return decided_otherwise(decisions_, stands);
  {
    MutexLock lock(mu_);
    resolved_as_ = stands;
  }
  TS_LOG_WARN("mig={} role=source the operator decides: {}", id_, state::decision_name(decision));
  resolved_ = true;
  waiting_.cancel("the operator has resolved it");
  return {};
}

void ResumedSource::heard(const Result<>& answer) {
  MutexLock lock(mu_);
  if (!answer) return last_word_.failed(answer.error());
  last_word_.said("has confirmed that it knows the decision", unix_ms_now());
}

Result<Decision> ResumedSource::heard_of(Result<Decision> word) {
  MutexLock lock(mu_);
  if (!word)
    last_word_.failed(word.error());
  else
    last_word_.said(*word == Decision::kCommit ? "runs it" : "has ended its copy", unix_ms_now());
  return word;
}

bool ResumedSource::tasks_live() const {
  auto start = sys::start_time(facts_.pid());
  return start && *start == facts_.start_time() && !sys::process_ended(facts_.pid());
}

void ResumedSource::run() {
  fault::pass("source.resume");
  auto decision = tasks_live() ? find_out() : forward_if_possible();
  if (!decision) return;
  enter(*decision == Decision::kCommit ? SourceState::kCommitted : SourceState::kRolledBack);
  if (*decision == Decision::kCommit)
    go_forward();
  else
    go_back();
}

void ResumedSource::enter(SourceState state) {
  MutexLock lock(mu_);
  if (state_ != state) since_ms_ = unix_ms_now();
  state_ = state;
  unconfirmed_ = false;
}

// Frozen until it is known; also where the journal says commit: the daemon before may have told the destination to end
// its copy, so that this one is the last.
Result<Decision> ResumedSource::find_out() {
  TS_LOG_INFO("recovery: mig={} role=source {} stands still: what was decided, and what does {} say?", id_,
              facts_.container(), facts_.peer());
  SettleOptions options;
  options.withdrawn = true;
  options.commit_tried = true;
  SettleHooks hooks;
  hooks.withdraw = [this] { return heard_of(withdraw_from(services_, facts_.peer(), id_, waiting_)); };
  hooks.commit = [this] { return say_commit(); };
  auto found = settle(decisions_, options, hooks, waiting_);
  if (found || end_.cancelled()) return found;
  MutexLock lock(mu_);
  return resolved_as_ ? Result<Decision>(*resolved_as_) : found;
}

Result<Decision> ResumedSource::say_commit() {
  {
    MutexLock lock(mu_);
    state_ = SourceState::kCommitted;
    unconfirmed_ = true;
  }
  auto word = commit_at(services_, facts_.peer(), id_, waiting_);
  // In post-copy it ran there, and what has become of it is said when pages are asked for.
  if (!word && word.error().code() == Errc::kCorrupt && facts_.post_copy()) word = Decision::kCommit;
  confirmed_ = word && *word == Decision::kCommit;
  return heard_of(std::move(word));
}

// Its tasks are dead, so that only the other copy is left (rule 8).
Result<Decision> ResumedSource::forward_if_possible() {
  while (true) {
    auto stands = decisions_.decide(Decision::kCommit, Deadline::in(kResolveLimit), waiting_);
    if (stands) (void)decisions_.keep(*stands);
    if (stands || end_.cancelled()) return stands;
    TS_LOG_WARN("recovery: mig={} role=source what was decided? {}", id_, stands.error().message());
    TS_TRY(sleep_for(kForgetEvery, end_));
  }
}

void ResumedSource::go_back() {
  auto move = services_.store->move(id_);
  state::Move gone;
  gone.id = id_;
  gone.container = facts_.container();
  bool runs = give_back(services_, move ? *move : gone);
  directory_ = {};
  if (move) {
    move->state = "rolled-back";
    move->error = "the daemon ended during this move";
    if (!runs) move->error += fmt::format(", and {} does not run here", facts_.container());
    move->summary.clear();
    move->ended_ms = unix_ms_now();
    (void)services_.unrecorded.put(*services_.store, *move);
  }
  ended_ = true;
}

void ResumedSource::go_forward() {
  TS_LOG_INFO("recovery: mig={} role=source committed: {} belongs to {}{}", id_, facts_.container(), facts_.peer(),
              facts_.post_copy() ? ", which still needs its memory" : "");
  // In post-copy nothing ends before the destination has all pages; otherwise first of all the old copy.
  Result<> outcome = facts_.post_copy() ? push_pages() : end_tasks();
  if (end_.cancelled()) return;
  if (resolved_) outcome = {};
  if (outcome) outcome = facts_.post_copy() ? end_tasks() : tell_commit();
  if (end_.cancelled()) return;
  fault::pass("source.resume.told");
  if (outcome) lead_to_destination();
  // Only now: a packet that still came here would find no socket, and its sender would be told that there is none.
  if (outcome && shut_) (void)shut_->open();
  shut_.reset();
  if (outcome) forget();
  if (end_.cancelled()) return;
  if (outcome) decisions_.retire();
  directory_ = {};
  fault::pass("source.resume.before-record");
  record(outcome);
  ended_ = true;
}

Result<std::unique_ptr<PeerSession>> ResumedSource::connect() {
  TS_TRY_ASSIGN(wire::PeerTarget target, services_.peer(facts_.peer()));
  auto deadline = Deadline::in(kConnectLimit);
  auto session = PeerSession::connect(services_.identity, target, services_.settings.node, deadline, waiting_);
  if (!session || confirmed_) {
    heard(session ? Result<>() : std::unexpected(session.error()));
    return session;
  }
  // It asks by itself, but only now and then.
  peer::Request request;
  request.mutable_commit()->set_move_id(id_);
  auto told = (*session)->call(request, deadline, waiting_);
  heard(told ? Result<>() : std::unexpected(told.error()));
  TS_TRY(told);
  confirmed_ = true;
  return session;
}

// Until it is heard, or the destination says that there is nothing it could do with it.
Result<> ResumedSource::tell_commit() {
  if (confirmed_) return {};
  auto deadline = Deadline::in(kPatience);
  while (true) {
    auto told = connect();
    if (told || resolved_) return {};
    auto code = told.error().code();
    bool aborted = code == Errc::kCancelled && !waiting_.cancelled();
    if (code == Errc::kNotFound || code == Errc::kCorrupt || aborted || deadline.passed())
      return std::unexpected(std::move(told).error().context("tell the destination"));
    if (auto slept = sleep_for(kTellEvery, waiting_); !slept) return resolved_ ? Result<>() : slept;
  }
}

// The tasks are dead: killed when the destination had everything, or by somebody else.
Result<> ResumedSource::all_there() {
  TS_TRY(tell_commit());
  TS_TRY_ASSIGN(auto session, connect());
  peer::Request request;
  request.mutable_fill()->set_move_id(id_);
  TS_TRY_ASSIGN(auto reply, session->call(request, Deadline::in(kConnectLimit), waiting_));
  if (reply.fill().complete()) return {};
  return fail(Errc::kCorrupt, "process {} is gone, and {} still needs its memory", facts_.pid(), facts_.peer());
}

Result<> ResumedSource::push_pages() {
  if (!tasks_live()) return all_there();
  TS_TRY_ASSIGN(auto cgroup, sys::Cgroup::at(facts_.cgroup()));
  memory::PageSenderOptions options;
  if (facts_.compression() <= static_cast<uint32_t>(memory::CompressionPolicy::kAuto))
    options.compression = static_cast<memory::CompressionPolicy>(facts_.compression());
  options.link_bytes_per_second = facts_.link_bytes_per_second();
  PagePusher::Hooks hooks;
  hooks.connect = [this] { return connect(); };
  PushLanes lanes{id_, facts_.lane_token(), facts_.peer(), facts_.max_bits_per_second()};
  hooks.add_lanes = [this, lanes](PushLink& link) { return add_push_lanes(link, lanes, services_, waiting_); };
  hooks.progress = [](const PushProgress&) {};
  PagePusher pusher(id_, std::move(cgroup), options, std::move(hooks));
  return pusher.run(kPatience, waiting_);
}

// Nothing of it reaches the network, no end of a connection that lives on elsewhere; or, with a new address, just that.
Result<> ResumedSource::end_tasks() {
  if (!tasks_live()) return {};
  TS_TRY_ASSIGN(auto cgroup, sys::Cgroup::at(facts_.cgroup()));
  TS_TRY_ASSIGN(shut_, ShutNetwork::shut(facts_.pid()));
  TS_TRY_ASSIGN(auto pids, cgroup.processes());
  if (facts_.network().new_address())
    end_connections(pids);
  else
    TS_TRY_CTX(criu::mute_sockets(pids), "silence its connections");
  return kill_tasks(cgroup);
}

Result<> ResumedSource::kill_tasks(const sys::Cgroup& cgroup) {
  TS_TRY(cgroup.kill_all());
  auto deadline = Deadline::in(kEndLimit);
  // The engine removes the cgroup of a dead container.
  for (auto populated = cgroup.populated(); populated && *populated; populated = cgroup.populated()) {
    if (deadline.passed()) return fail(Errc::kTimeout, "the tasks in {} did not die", cgroup.path());
    TS_TRY(sleep_for(milliseconds(5), end_));
  }
  (void)cgroup.thaw(Deadline::in(milliseconds(100)));
  return {};
}

// They are frozen, and nobody but a dead CRIU has held them: once they die the engine takes the network away. Whoever
// is told connects again at once, so the destination hears of the decision before, if it answers.
void ResumedSource::end_connections(const std::vector<pid_t>& pids) {
  peer::Request settled;
  settled.mutable_settled()->set_move_id(id_);
  if (auto session = connect(); session) (void)(*session)->call(settled, Deadline::in(kSettleLimit), end_);
  auto old = network::OldConnections::take(pids);
  if (auto r = shut_->open(); !r) TS_LOG_ERROR("recovery: mig={} open the network: {}", id_, r.error().message());
  TS_LOG_INFO("recovery: mig={} connections ended={}", id_, old.end(kConnectionsEnd));
}

network::CutoverFacts ResumedSource::cutover_facts_of(const engine::Container& container) const {
  auto facts = cutover_facts(container);
  facts.move_id = id_;
  facts.source = services_.settings.node;
  facts.destination = facts_.peer();
  facts.home = facts_.network().home();
  facts.home_id = facts_.network().home_id();
  facts.new_addresses.assign(facts_.new_addresses().begin(), facts_.new_addresses().end());
  return facts;
}

void ResumedSource::lead_to_destination() {
  auto container = from_facts(facts_.network());
  if (!container) return;
  auto facts = cutover_facts_of(*container);
  if (auto r = services_.cutover->left(facts); !r)
    TS_LOG_ERROR("recovery: mig={} network: {}", id_, r.error().message());
  services_.cutover->settled(facts);
  if (facts.new_address && services_.entries != nullptr) services_.entries->settle(facts);
  services_.cutover->gone(facts);
}

void ResumedSource::forget() {
  // An engine may not be able to now: its disk is full, or it is being started again.
  auto deadline = Deadline::in(kPatience);
  for (auto engine = services_.engine(facts_.engine()); engine;) {
    auto r = (*engine)->forget(facts_.container_id(), facts_.keep_source(), Deadline::in(kForgetLimit));
    if (r) break;
    TS_LOG_WARN("recovery: mig={} the stopped source container: {}", id_, r.error().message());
    if (deadline.passed() || !sleep_for(kForgetEvery, end_)) break;
  }
  (void)network::remove_moved_connections(facts_.container_id());
}

void ResumedSource::record(const Result<>& outcome) {
  if (!outcome)
    TS_LOG_ERROR("recovery: mig={} {}: {}", id_, facts_.container(), outcome.error().message());
  else
    TS_LOG_INFO("recovery: mig={} {} runs on {}", id_, facts_.container(), facts_.peer());
  auto move = services_.store->move(id_);
  if (!move || move->ended_ms != 0) return;  // only its container was left
  move->state = outcome ? "done" : "failed";
  move->error = outcome ? "" : outcome.error().message();
  move->summary.clear();
  move->ended_ms = unix_ms_now();
  (void)services_.unrecorded.put(*services_.store, *move);
}

}  // namespace transship::migrate
