// A destination's move after a kill -9 of the daemon: what it leaves, and how the next daemon takes it up.
#include "base/fault.h"
#include "base/log.h"
#include "base/wall_clock.h"
#include "migrate/convert.h"
#include "migrate/destination.h"
#include "migrate/resume_file.h"
#include "sys/cgroup.h"

namespace transship::migrate {
namespace {

constexpr milliseconds kReleaseEvery{1000};

}  // namespace

Result<> DestinationMove::save(bool running) const {
  journal::ResumeFile file;
  auto& facts = *file.mutable_arriving();
  facts.set_source(source_);
  facts.set_source_address(source_address_);
  facts.set_own_address(own_address_);
  facts.set_lane_token(lane_token_);
  *facts.mutable_container() = to_facts(wanted_);
  facts.mutable_container()->set_home(cutover_.home);
  facts.mutable_container()->set_home_id(cutover_.home_id);
  for (const auto& port : exposed_) *facts.mutable_container()->add_exposed() = port;
  put_addresses(new_addresses_, *facts.mutable_new_addresses());
  if (staged_) {
    facts.mutable_staged()->set_id(staged_->id);
    facts.mutable_staged()->set_upper_dir(staged_->upper_dir);
    facts.mutable_staged()->set_rootfs(staged_->rootfs);
    facts.mutable_staged()->set_rootfs_kind(staged_->rootfs_kind);
    for (const auto& v : staged_->volumes) {
      auto* volume = facts.mutable_staged()->add_volumes();
      volume->set_destination(v.destination);
      volume->set_path(v.path);
    }
  }
  facts.set_started_ms(started_ms_);
  facts.set_live_memory(memory_ != nullptr);
  {
    MutexLock lock(mu_);
    facts.set_post_copy(post_copy_);
  }
  if (parked_container_) facts.set_parked(parked_container_->facts());
  facts.set_arbiter(decisions_->identity());
  facts.set_running(running);
  return write_resume_file(directory_, file);
}

Result<std::shared_ptr<DestinationMove>> DestinationMove::resume(Services& services, const std::string& move_id,
                                                                 const journal::Arriving& facts) {
  TS_TRY_ASSIGN(Cancel cancel, Cancel::create());
  SessionPeer source{facts.source(), facts.source_address(), facts.own_address()};
  std::shared_ptr<DestinationMove> move(
      new DestinationMove(services, source, move_id, facts.lane_token(), std::move(cancel)));
  TS_TRY(move->take_up(facts));
  move->resumed_thread_ = Thread("move-resumed", [m = move.get()] { m->go_on(); });
  return move;
}

Result<> DestinationMove::take_up(const journal::Arriving& facts) {
  TS_TRY_ASSIGN(wanted_, from_facts(facts.container()));
  TS_TRY_ASSIGN(engine_, services_.engine(wanted_.engine));
  started_ms_ = facts.started_ms();
  wanted_.arrival = id_;
  staging_ = true;
  decisions_ = std::make_unique<DecisionRegister>(*services_.store, services_.arbiter.get(), id_, facts.arbiter());
  if (!facts.has_staged()) {
    TS_TRY_ASSIGN(tmpfs_, sys::TmpfsMount::adopt(directory_));
    return {};
  }
  const auto& s = facts.staged();
  staged_ = engine::Staged{s.id(), s.upper_dir(), s.rootfs(), s.rootfs_kind(), {}};
  for (const auto& v : s.volumes()) staged_->volumes.push_back({v.destination(), v.path()});
  volumes_ = ArrivingVolumes::adopt(copies(), wanted_, staged_->volumes, arriving_options(), cancel_);
  services_.passing.put(staged_->id);
  connections_installed_ = true;  // perhaps
  set_cutover_facts(facts.container());
  cutover_.engine = wanted_.engine;
  cutover_.engine_id = staged_->id;
  new_addresses_ = take_addresses(facts.new_addresses());
  for (const auto& a : new_addresses_) cutover_.new_addresses.push_back(a.ip);
  arrival_prepared_ = true;
  TS_TRY_ASSIGN(tmpfs_, sys::TmpfsMount::adopt(directory_));
  auto parked = gate::Parked::adopt(facts.parked());
  {
    MutexLock lock(mu_);
    state_ = facts.parked().empty() ? State::kStaged : State::kParked;
    post_copy_ = facts.post_copy();
    committed_ = facts.running();
    state_since_ms_ = unix_ms_now();
    if (facts.parked().empty()) return {};
    if (parked)
      cgroup_ = parked->cgroup();
    else
      lost_ = parked.error().message();
  }
  if (!parked) return {};
  parked_container_ = std::move(*parked);
  if (facts.live_memory()) take_up_memory();
  return {};
}

void DestinationMove::take_up_memory() {
  auto memory = ArrivingMemory::adopt(directory_ + "/work",
                                      {.lost = [this](const Error& error) { memory_lost(error); },
                                       .replaced = [this](const std::string& text) { pager_replaced(text); }});
  if (memory)
    memory_ = std::move(*memory);
  else
    memory_lost(memory.error());
}

bool DestinationMove::still_frozen() const {
  if (!parked_container_) return false;
  auto cgroup = sys::Cgroup::at(parked_container_->cgroup());
  auto frozen = cgroup ? cgroup->frozen() : Result<bool>(false);
  return frozen && *frozen;
}

void DestinationMove::go_on() {
  fault::pass("destination.resume");
  if (state_text() == "staged" || state_text() == "reserved")
    return (void)abort(fmt::format("transshipd on {} was killed", services_.settings.node));
  auto decision = services_.store->decision(id_);
  if (decision && *decision == state::Decision::kAbort)
    return (void)abort(fmt::format("{} has taken it back", source_));
  bool committed = decision && *decision == state::Decision::kCommit;
  {
    MutexLock lock(mu_);
    committed_ = committed_ || committed;
    committed = committed_;
  }
  if (committed) return go_on_running();
  TS_LOG_INFO("recovery: mig={} role=destination {} is parked here: asking {} for the decision", id_, wanted_.name,
              source_);
  if (decisions_->has_arbiter()) watch_thread_ = Thread("arbiter-watch", [this] { watch_register(); });
  ask_source(end_);
}

// It was written down before it ran, so that it may stand still yet.
void DestinationMove::go_on_running() {
  TS_LOG_INFO("recovery: mig={} role=destination {} runs here, memory {}", id_, wanted_.name,
              lost().empty() ? "is being filled" : lost());
  while (still_frozen()) {
    if (commit() || !sleep_for(kReleaseEvery, end_)) return;
  }
  if (lost().empty()) run_cutover();  // again: whether it had succeeded is not written down
  MutexLock lock(mu_);
  if (state_ == State::kRunning) return;  // lost while it stood still
  state_ = State::kRunning;
  finish_thread_ = Thread("finish", [this] { finish_running(); });
}

}  // namespace transship::migrate
