// The second half of a destination's move: parked, and what the decision makes of it.
#include <sys/stat.h>

#include "base/fault.h"
#include "base/log.h"
#include "base/text.h"
#include "base/wall_clock.h"
#include "criu/engine_file_images.h"
#include "migrate/channels.h"
#include "migrate/convert.h"
#include "migrate/destination.h"
#include "migrate/elapsed.h"
#include "proto/local.pb.h"
#include "sys/cgroup.h"
#include "sys/urgent.h"

namespace transship::migrate {
namespace {

constexpr milliseconds kDiscardLimit{20'000};
constexpr milliseconds kDiscardEvery{2000};
constexpr milliseconds kAskEvery{1000};
constexpr milliseconds kResolveLimit{5000};
// CRIU reads about 1 GiB a second here; a restore of a very large container takes its time.
constexpr milliseconds kRestoreLimit{120'000};
constexpr milliseconds kReleaseLimit{5000};
// Podman needs some 20 ms.
constexpr milliseconds kEngineReturns{3000};
// In post-copy the link decides how long it takes; the pager itself waits without limit.
constexpr std::chrono::hours kFillLimit{72};
constexpr milliseconds kSourceLimit{10 * 60'000};
// How long a cutover that failed is tried again, and how often.
constexpr milliseconds kCutoverLimit{10 * 60'000};
constexpr milliseconds kCutoverPause{500};
constexpr milliseconds kCutoverLongest{15'000};

Result<std::vector<network::Connection>> connections_of(const peer::RestoreRequest& request) {
  std::vector<network::Connection> connections;
  for (const auto& c : request.connections()) {
    TS_TRY_ASSIGN(auto local, network::IpAddress::parse(c.local_ip()));
    TS_TRY_ASSIGN(auto remote, network::IpAddress::parse(c.remote_ip()));
    if (c.local_port() > 65535 || c.remote_port() > 65535) return fail(Errc::kPeerProtocol, "a port is out of range");
    connections.push_back(
        {local, static_cast<uint16_t>(c.local_port()), remote, static_cast<uint16_t>(c.remote_port())});
  }
  return connections;
}

}  // namespace

Result<> DestinationMove::await_parked(const peer::RestoreRequest& request) {
  auto arrived = Clock::now();
  TS_TRY_ASSIGN(auto connections, connections_of(request));
  // Beside the restore: no packet of theirs passes before the release. A program runs for it, tens of milliseconds
  // long.
  if (wanted_.new_address || services_.cutover->knows_connections(cutover_)) connections.clear();
  TS_TRY(end_old_connections());
  TS_TRY(criu::accept_engine_files(directory_ + "/images"));
  connections_installed_ = !connections.empty();
  Result<> installed;
  Thread installing("connections", [&] {
    if (!connections.empty()) installed = network::install_moved_connections(staged_->id, connections);
  });
  gate::RestoreOptions how;
  if (memory_) {
    how.lazy = true;
    auto inherited = memory_->prepare(directory_ + "/images", request.post_copy());
    if (!inherited) return std::unexpected(std::move(inherited).error().context("memory"));
    how.inherited = std::move(*inherited);
  }
  TS_TRY(check_images_confined());
  auto parked = gate_->restore(how, Deadline::in(kRestoreLimit), cancel_);
  if (!parked) gate_->abort(parked.error().message());
  // The engine's start ends with the gate in either case, and its lock with it; but not if the runtime was killed
  // before it could say that all is well: then the engine's monitor waits at pipes that the parked tasks hold.
  if (parked && sleep_for(kEngineReturns, engine_ended_)) (void)parked->kill(Deadline::in(kReleaseLimit));
  engine_thread_.join();
  if (!engine_outcome_ && (parked || parked.error().code() == Errc::kCancelled)) {
    if (parked) parked_container_ = std::move(*parked);  // what is undone ends it
    return engine_outcome_;
  }
  if (!parked) return std::unexpected(std::move(parked).error());
  parked_container_ = std::move(*parked);
  breakpoints_.reset();
  TS_TRY(parked_container_->verify());
  if (memory_) TS_TRY_CTX(memory_->wait_replaceable(cancel_), "memory");
  TS_TRY(check_tasks_confined());
  installing.join();
  TS_TRY(installed);
  arrival_thread_.join();
  TS_TRY_CTX(arrival_outcome_, "prepare the way to the container's addresses");
  TS_TRY_CTX(volumes_->settle(), "volumes");
  {
    MutexLock lock(mu_);
    cgroup_ = parked_container_->cgroup();
  }
  TS_TRY(fault::at("destination.restore.before-save"));
  TS_TRY(save());
  TS_TRY(fault::at("destination.restore.saved"));
  parked_.set_pid(static_cast<uint32_t>(parked_container_->pid()));
  parked_.set_engine_start_ms(ms_between(engine_called_, runtime_arrived_));
  parked_.set_wait_ms(ms_between(runtime_arrived_, arrived));
  parked_.set_restore_ms(ms_since(arrived));
  for (const auto& a : new_addresses_) parked_.add_addresses(a.ip);
  return {};
}

// ---- the decision

Result<peer::Reply> DestinationMove::commit(bool by_register) {
  MutexLock serial(request_mu_);
  TS_TRY(expect("commit", {State::kParked, State::kRunning}));
  TS_TRY(fault::at("destination.commit"));
  TS_TRY(begin_commit(by_register));
  peer::Reply reply;
  auto& running = *reply.mutable_running();
  {
    MutexLock lock(mu_);
    bool again = state_ == State::kRunning;  // after a lost answer
    if (again && lost_.empty()) return reply;
    if (!lost_.empty()) {
      state_ = State::kRunning;
      if (!again) finish_thread_ = Thread("finish", [this] { finish_running(); });
      return fail(Errc::kCorrupt, "{} was killed on {}: {}", wanted_.name, services_.settings.node, lost_);
    }
  }
  // Before it runs: a daemon that comes back to it must not take it for parked. In memory, like the container itself.
  TS_TRY_CTX(save(/*running=*/true), "write down that it runs");
  TS_TRY(fault::at("destination.commit.saved"));
  auto begin = Clock::now();
  auto urgent = std::make_optional<sys::Urgent>();
  // The route may change while the tasks are being released: their sockets exist, so nobody gets a reset. But not while
  // their network is shut: coming home, what the home had led here a moment too early was lost (10 of 10,000 datagrams
  // a second).
  Thread cutover;
  auto released = parked_container_->release(Deadline::in(kReleaseLimit), [&] {
    cutover = Thread("cutover", [this, &running] {
      auto cutover_begin = Clock::now();
      run_cutover();
      running.set_cutover_ms(ms_since(cutover_begin));
    });
  });
  running.set_release_ms(ms_since(begin));
  cutover.join();
  urgent.reset();
  if (!released) {
    TS_LOG_ERROR("mig={} phase=commit release: {}", id_, released.error().message());
    return std::unexpected(
        std::move(released).error().context(fmt::format("let the container run on {}", services_.settings.node)));
  }
  fault::pass("destination.commit.released");
  enter(State::kRunning);
  TS_LOG_INFO("mig={} phase=commit running release_ms={} cutover_ms={}", id_, running.release_ms(),
              running.cutover_ms());
  finish_thread_ = Thread("finish", [this] { finish_running(); });
  return reply;
}

void DestinationMove::run_cutover() {
  // After the commit there is no way back: what the operator's command could not do is said and logged, and tried again
  // when nobody waits any more. The container runs here all the same.
  if (auto r = services_.cutover->commit(cutover_); !r) {
    TS_LOG_ERROR("mig={} phase=commit cutover: {}", id_, r.error().message());
    cutover_error_ = r.error().message();
  }
}

// The cause may pass: a link that was cut, an interface of a cloud that did not answer. Not once the container leaves
// again (leaves()): that would lead traffic to where it was.
void DestinationMove::repeat_cutover() {
  auto deadline = Deadline::in(kCutoverLimit);
  auto pause = kCutoverPause;
  while (!cutover_error_.empty() && !deadline.passed() && sleep_for(pause, cutover_over_)) {
    pause = std::min(pause * 2, kCutoverLongest);
    MutexLock lock(cutover_mu_);
    if (cutover_over_.cancelled()) return;
    auto r = services_.cutover->commit(cutover_);
    cutover_error_ = r ? "" : r.error().message();
    if (r) TS_LOG_INFO("mig={} phase=commit cutover done", id_);
  }
  if (!cutover_error_.empty()) TS_LOG_ERROR("mig={} phase=commit cutover, given up: {}", id_, cutover_error_);
}

void DestinationMove::leaves(const std::string& engine_id) {
  {
    MutexLock lock(mu_);
    if (state_ != State::kRunning || !staged_ || staged_->id != engine_id) return;
  }
  cutover_over_.cancel("the container leaves, or the daemon ends");
  MutexLock lock(cutover_mu_);  // one that runs is waited for
}

// ---- memory

Result<> DestinationMove::make_memory(uint64_t page_bytes) {
  TS_TRY_ASSIGN(memory_, ArrivingMemory::create(
                             page_bytes, {.lost = [this](const Error& error) { memory_lost(error); },
                                          .replaced = [this](const std::string& text) { pager_replaced(text); }}));
  return {};
}

// Its memory cannot be completed any more: rather dead than wrong. Before the commit the source still has it.
void DestinationMove::memory_lost(const Error& error) {
  TS_LOG_ERROR("mig={} memory is lost, the container is killed: {}", id_, error.message());
  std::string cgroup;
  {
    MutexLock lock(mu_);
    cgroup = cgroup_;
    if (lost_.empty()) lost_ = error.message();
  }
  if (!cgroup.empty()) {
    if (auto r = sys::Cgroup::at(cgroup); r) (void)r->kill_all();
  }
  cancel_.cancel(fmt::format("memory on {}: {}", services_.settings.node, error.message()));
}

// Nothing is lost. `transship show` has it as a remark.
void DestinationMove::pager_replaced(const std::string& text) {
  TS_LOG_WARN("mig={} phase=fill {}", id_, text);
  local::MoveEvent event;
  event.set_move_id(id_);
  event.set_unix_ms(unix_ms_now());
  event.mutable_phase()->set_name("fill");
  event.mutable_phase()->set_state(local::PHASE_DONE);
  event.mutable_phase()->set_detail(text);
  if (auto r = services_.store->add_event(id_, event.SerializeAsString()); !r)
    TS_LOG_DEBUG("mig={} journal: {}", id_, r.error().message());
}

Result<peer::Reply> DestinationMove::fill(const peer::FillRequest& request) {
  TS_TRY(fault::at("destination.follow"));
  if (!memory_) return fail(Errc::kPeerProtocol, "this move has no pages of its own");
  renew();
  peer::Reply reply;
  TS_TRY_ASSIGN(*reply.mutable_fill(), memory_->fill_state(request));
  return reply;
}

// False: this daemon ends before; pager and container go on, and the next daemon waits.
bool DestinationMove::wait_filled() {
  auto begin = Clock::now();
  auto filled = memory_->wait_filled(Deadline::in(kFillLimit), cancel_);
  auto p = memory_->progress();
  TS_LOG_INFO("mig={} phase=fill pages={} faults={} waited={} p50_us={} p99_us={} max_us={} ms={} {}", id_,
              p.done_pages, p.faults, p.requests, p.wait_p50.count(), p.wait_p99.count(), p.wait_max.count(),
              ms_since(begin), filled ? "" : filled.error().message());
  if (filled) return true;
  // The same that memory_lost() hears, perhaps before it does.
  MutexLock lock(mu_);
  if (lost_.empty() && filled.error().code() == Errc::kCancelled) return false;
  if (lost_.empty()) lost_ = filled.error().message();
  return true;
}

std::string DestinationMove::lost() const {
  MutexLock lock(mu_);
  return lost_;
}

// Off the gap: what a running container does not wait for.
void DestinationMove::finish_running() {
  if (wanted_.new_address) services_.passing.succeeds(staged_->id, cutover_.home, cutover_.home_id);
  services_.passing.remove(staged_->id);
  take_over_entries();
  fault::pass("destination.cleanup.before-decide");
  if (auto r = services_.store->decide(id_, state::Decision::kCommit); !r)
    TS_LOG_ERROR("mig={} journal: {}", id_, r.error().message());
  fault::pass("destination.cleanup.decided");
  if (!wanted_.new_address) services_.cutover->arrived(cutover_);
  if (auto r = lost().empty() ? engine_->finish(staged_->id, wanted_) : Result<>(); !r)
    TS_LOG_ERROR("mig={} restart policy of {} could not be set: {}", id_, wanted_.name, r.error().message());
  gate_.reset();
  if (auto r = lost().empty() && volumes_ ? volumes_->arrived() : Result<>(); !r)
    TS_LOG_WARN("mig={} it will not be known what changes in its volumes: {}", id_, r.error().message());
  repeat_cutover();
  if (memory_ && !wait_filled()) return;
  fault::pass("destination.cleanup.filled");
  tmpfs_ = {};
  (void)sys::remove_tree(layers_dir_);
  services_.reservations.release(id_);
  reserved_ = false;
  auto lost = this->lost();
  record(lost.empty() ? "done" : "failed", lost.empty() ? cutover_error_ : lost);
  fault::pass("destination.cleanup.recorded");
  // A source that follows must find this move until it knows that it may end its own processes.
  if (memory_) memory_->wait_source_told(Deadline::in(kSourceLimit), cancel_);
  MutexLock lock(mu_);
  finished_ = true;
}

Result<> DestinationMove::abort(const std::string& reason) {
  {
    MutexLock lock(mu_);
    if (state_ == State::kRunning || committed_)
      return fail(Errc::kRefused, "the move has been committed: {} runs here", wanted_.name);
  }
  cancel_.cancel(reason);  // ends what another request waits for
  MutexLock serial(request_mu_);
  bool parked = false;
  {
    MutexLock lock(mu_);
    if (state_ == State::kAborted) return {};
    if (state_ == State::kRunning || committed_)
      return fail(Errc::kRefused, "the move has been committed: {} runs here", wanted_.name);
    parked = state_ == State::kParked && !withdrawn_;  // withdraw() has written it down
    state_ = State::kAborted;
  }
  // A daemon that comes after this one finds nothing here any more, and is not to take the container for lost.
  if (parked && decisions_) {
    if (auto r = decisions_->keep(Decision::kAbort); !r) TS_LOG_WARN("mig={} journal: {}", id_, r.error().message());
  }
  TS_LOG_INFO("mig={} role=destination aborted: {}", id_, reason);
  fault::pass("destination.abort");
  undo();
  fault::pass("destination.abort.undone");
  record("rolled-back", reason);
  MutexLock lock(mu_);
  undone_ = true;
  return {};
}

// Newest first; everything is idempotent, and a failure is logged, never the end of the undoing.
void DestinationMove::undo() {
  cancel_.cancel("undone");
  if (parked_container_) {
    if (auto r = parked_container_->kill(Deadline::in(kReleaseLimit)); !r)
      TS_LOG_ERROR("mig={} parked container: {}", id_, r.error().message());
  } else if (gate_) {
    gate_->abort(cancel_.reason());
  }
  fault::pass("destination.abort.dead");
  engine_thread_.join();
  arrival_thread_.join();
  if (arrival_prepared_ && !wanted_.new_address) services_.cutover->undo_arrival(cutover_);
  if (memory_) memory_->abort();  // the restored tasks are dead
  rounds_.end();
  if (volumes_) volumes_->end();
  {
    MutexLock lock(mu_);
    images_.clear();
    layers_.clear();
  }
  if (staging_) discard();
  if (staged_) {
    services_.passing.remove(staged_->id);
    gate_.reset();
    gate::remove_gate(staged_->id);
    if (connections_installed_) (void)network::remove_moved_connections(staged_->id);
  }
  gate_.reset();
  tmpfs_ = {};
  (void)sys::remove_tree(layers_dir_);
  if (reserved_) services_.reservations.release(id_);
  reserved_ = false;
}

void DestinationMove::discard() {
  auto deadline = Deadline::in(kDiscardLimit);
  auto r = staged_ ? engine_->discard(staged_->id, deadline) : Result<>();
  // And the volumes that were made for it, or a container of which we never heard the id.
  if (r) r = engine_->discard_arrival(wanted_, deadline);
  if (r && volumes_) volumes_->undone();
  MutexLock lock(mu_);
  if (!r && !discard_again_)
    TS_LOG_ERROR("mig={} container {} could not be removed yet: {}", id_, wanted_.name, r.error().message());
  discard_again_ = !r;
  discard_tried_ = Clock::now();
}

void DestinationMove::retry_undo() {
  {
    MutexLock lock(mu_);
    if (!discard_again_ || Clock::now() - discard_tried_ < kDiscardEvery) return;
  }
  MutexLock serial(request_mu_);
  discard();
}

void DestinationMove::renew_if_busy() {
  if (busy_) renew();
}

void DestinationMove::expire() {
  {
    MutexLock lock(mu_);
    if (state_ == State::kParked || state_ == State::kRunning || state_ == State::kAborted) return;
  }
  (void)abort(
      fmt::format("nothing was heard from {} for {}", source_, format_duration(services_.settings.reservation_ttl)));
}

bool DestinationMove::ended() const {
  MutexLock lock(mu_);
  return (state_ == State::kAborted && undone_ && !discard_again_) || finished_;
}

void DestinationMove::session_lost(const Cancel& cancel) {
  bool parked = false;
  {
    MutexLock lock(mu_);
    parked = state_ == State::kParked;
    if (state_ == State::kRunning || state_ == State::kAborted) return;
  }
  if (!parked) {
    (void)abort(fmt::format("the session with {} ended", source_));
    return;
  }
  TS_LOG_WARN("mig={} the session with {} ended while the container is parked: asking for the decision", id_, source_);
  ask_source(cancel);
}

void DestinationMove::heard(const Result<peer::Decision>& decision) {
  MutexLock lock(mu_);
  if (!decision) return last_word_.failed(decision.error());
  last_word_.said(*decision == peer::DECISION_COMMIT  ? "decided that it runs here"
                  : *decision == peer::DECISION_ABORT ? "decided that it does not run here"
                                                      : "has not decided yet",
                  unix_ms_now());
}

// Should this daemon die in the middle, the container is parked still, and the operator says so once more.
Result<> DestinationMove::resolve(const OperatorsWord& word) {
  TS_TRY(risk_of(standing(), word));
  auto decision = word.decision;
  // With an arbiter the operator is one more who writes, and the first one stands.
  auto stands = decision;
  if (decisions_->has_arbiter()) {
    TS_TRY_ASSIGN(stands,
                  decisions_->decide_by_hand(decision, word.without_arbiter, Deadline::in(kResolveLimit), end_));
  }
  TS_LOG_WARN("mig={} role=destination the operator decides: {}{}", id_, state::decision_name(decision),
              stands == decision ? "" : ", and it was decided otherwise");
  if (stands == state::Decision::kAbort)
    TS_TRY(abort("the operator decided so, without the source"));
  else
    TS_TRY(commit(decisions_->has_arbiter()));
  return stands == decision ? Result<>() : decided_otherwise(*decisions_, stands);
}

// Frozen is safe, running is not: only the source's word ends this, or the operator's.
void DestinationMove::ask_source(const Cancel& cancel) {
  peer::Request request;
  request.mutable_decision()->set_move_id(id_);
  while (!cancel.cancelled()) {
    fault::pass("destination.ask");
    auto ask = [&]() -> Result<peer::Decision> {
      TS_TRY_ASSIGN(wire::PeerTarget target, services_.peer(source_));
      auto deadline = Deadline::in(milliseconds(5000));
      TS_TRY_ASSIGN(auto session,
                    wire::Session::connect(services_.identity, target, services_.settings.node, deadline, cancel));
      TS_TRY_ASSIGN(peer::Reply reply, session->call(request, deadline, cancel));
      return reply.decision().decision();
    };
    auto decision = ask();
    if (!decision) TS_LOG_WARN("mig={} ask {} for the decision: {}", id_, source_, decision.error().message());
    heard(decision);
    if (decision && *decision == peer::DECISION_COMMIT) return (void)commit();
    if (decision && *decision == peer::DECISION_ABORT) return (void)abort(fmt::format("{} decided to abort", source_));
    if (ended() || state_text() == "running") return;
    if (!sleep_for(kAskEvery, cancel)) return;
  }
}

}  // namespace transship::migrate
