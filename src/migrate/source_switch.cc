// Phase III of the source: freeze, dump, transfer, and the one decision.
#include <sys/resource.h>

#include "base/fault.h"
#include "base/log.h"
#include "base/text.h"
#include "engine/oci_bundle.h"
#include "migrate/channels.h"
#include "migrate/convert.h"
#include "migrate/entry_handover.h"
#include "migrate/resume_file.h"
#include "migrate/source.h"
#include "network/unread_datagrams.h"
#include "sys/breakpoints.h"
#include "sys/cgroup.h"
#include "sys/process.h"

namespace transship::migrate {
namespace {

constexpr milliseconds kCallLimit{30'000};
constexpr milliseconds kRoundLimit{60 * 60'000};
constexpr milliseconds kForgetLimit{30'000};
// How long the user waits for a destination that does not confirm the decision. It is told on (MoveTable::go_on_with),
// and asks by itself as well.
constexpr milliseconds kTellLimit{20'000};
constexpr milliseconds kTellEvery{500};

}  // namespace

Result<> SourceMove::send_chunk(uint8_t kind, const std::string& name, uint64_t offset, std::span<const std::byte> data,
                                wire::Route route) {
  auto buffer = lanes_->take_buffer(data.size());
  std::ranges::copy(data, buffer.begin());
  TS_TRY(lanes_->send(kind, name, offset, std::move(buffer), route));
  return {};
}

// Everything that takes time and can be done while the container still runs.
Result<> SourceMove::get_ready() {
  TS_TRY(fault::at("source.ready"));
  const auto& container = planned_.survey.container;
  TS_TRY(sys::make_dirs(services_.settings.run_dir + "/moves"));
  TS_TRY_ASSIGN(uint64_t memory, sys::memory_available());
  TS_TRY_ASSIGN(tmpfs_, sys::TmpfsMount::create(directory_, memory - memory / 16));
  TS_TRY(sys::make_dirs(directory_ + "/images"));
  TS_TRY(sys::make_dirs(directory_ + "/work"));
  TS_TRY(sys::make_dirs(directory_ + "/spare"));
  breakpoints_ = sys::hold_breakpoints();
  TS_TRY(hold_restarts());
  std::vector<std::string> addresses;
  for (const auto& a : container.addresses) addresses.push_back(a.ip);
  if (!addresses.empty()) {
    network::HoldOptions options;
    options.max_bytes = services_.settings.hold_bytes;
    options.grace = services_.settings.hold_grace;
    auto hold = network::PacketHold::prepare(addresses, options);
    // Without it clients see a retransmission timeout on top of the gap: slower, not wrong.
    if (hold)
      hold_ = std::move(*hold);
    else
      warnings_.push_back(
          fmt::format("hold: packets that arrive during the gap are not kept: {}", hold.error().message()));
  }
  TS_TRY_CTX(services_.cutover->prepare_leave(cutover_), "prepare the way to the container's addresses");
  TS_TRY_ASSIGN(source_hold_, decisions_->hold_source(cancel_));
  if (request_.new_address) TS_TRY(offer_entries());
  images_ = std::make_unique<memory::ImageSender>(
      directory_ + "/images",
      [this](const std::string& name, uint64_t offset, std::span<const std::byte> data) -> Result<> {
        TS_TRY(send_chunk(static_cast<uint8_t>(Channel::kCriuImage), name, offset, data, wire::Route::kSpread));
        reporter_.progress(images_->sent() + data.size(), images_->total());
        return {};
      },
      cancel_);
  return {};
}

// A daemon that comes after this one puts them back, so what they are is written down before they are held.
Result<> SourceMove::hold_restarts() {
  const auto& container = planned_.survey.container;
  TS_TRY(fault::at("source.ready.before-record"));
  TS_TRY_ASSIGN(restarts_held_, planned_.survey.engine->restarts(container.id));
  TS_TRY_CTX(enter(SourceState::kCopying), "write the journal");
  TS_TRY(planned_.survey.engine->hold_restarts(container.id));
  return fault::at("source.ready.recorded");
}

void SourceMove::undo_ready() {
  if (undecided()) return;
  withdraw_entries();
  notice_.reset();
  services_.cutover->stay(cutover_);
  breakpoints_.reset();
  images_.reset();
  hold_.reset();
  if (restarts_held_) {
    const auto& id = planned_.survey.container.id;
    if (auto r = planned_.survey.engine->release_restarts(id, *restarts_held_); !r)
      TS_LOG_ERROR("mig={} restart policy of {} could not be put back: {}", this->id(), container(),
                   r.error().message());
    restarts_held_.reset();
  }
  tmpfs_ = {};
}

// ---- the gap begins

Result<> SourceMove::freeze_and_dump() {
  TS_TRY(fault::at("source.dump"));
  TS_TRY(check_arbiter());
  if (memory_) TS_TRY(memory_->end_throttle());
  TS_TRY_ASSIGN(sys::Cgroup cgroup, sys::Cgroup::of_process(planned_.survey.container.pid));
  // The round that is under way ends before anything stands still.
  volumes_->pause();
  notice_begins();
  frozen_bytes_ = lanes_->counters().payload_bytes;
  urgent_ = std::make_unique<sys::Urgent>();
  reporter_.gap_begins();
  frozen_ = true;
  if (hold_) TS_TRY(hold_->begin());
  TS_TRY(cgroup.freeze(Deadline::in(milliseconds(2000))));
  reporter_.gap_part("freeze");
  // Who is in the tree now is who is frozen: a fork since the plan is in it.
  TS_TRY_ASSIGN(planned_.survey.pids, cgroup.processes());
  if (!request_.new_address) {
    TS_TRY_ASSIGN(connections_, network::established_connections(planned_.survey.container.pid));
  }
  // In CRIU's place, which takes longer, and again for the restore.
  TS_TRY_ASSIGN(shut_, ShutNetwork::shut(planned_.survey.container.pid));
  TS_TRY(fault::at("source.dump.frozen"));
  keep_unread();
  ++round_;
  rootfs_thread_ = Thread("rootfs-last", [this] { rootfs_outcome_ = finish_rootfs(); });
  volumes_thread_ = Thread("volumes-last", [this] { volumes_outcome_ = volumes_->finish(planned_.survey.pids); });
  if (live_)
    memory_thread_ = Thread("memory-last", [this] {
      // It is done before CRIU is; and while it runs, the tasks are to serve CRIU: at their own priority.
      sys::Urgent::inherit_not();
      memory_outcome_ = follow_ ? memory_->tell_stale() : memory_->last_round(arm_control());
    });
  else
    images_->start();
  TS_TRY_ASSIGN(dump_times_, dump_->dump(cancel_, Deadline::in(kRoundLimit)));
  reporter_.gap_part("dump");
  return {};
}

// Beside the dump: also the destination's answer.
Result<> SourceMove::finish_rootfs() {
  TS_TRY(send_rootfs_round(true));
  peer::Request applied;
  applied.mutable_rootfs_applied()->set_round(round_);
  applied.mutable_rootfs_applied()->set_last(true);
  TS_TRY(call(applied, kRoundLimit));
  return {};
}

// What the container was sent and has not read yet goes with what arrives from now on: CRIU leaves it behind.
void SourceMove::keep_unread() {
  // For a new address they have the wrong one, and a rollback finds them where they are.
  if (!hold_ || request_.new_address) return;
  network::UnreadDatagrams unread;
  if (auto r = network::take_unread_datagrams(planned_.survey.pids, unread); !r)
    warnings_.push_back(
        fmt::format("hold: datagrams that {} has not read yet may be lost: {}", container(), r.error().message()));
  if (unread.lost > 0)
    warnings_.push_back(
        fmt::format("hold: {} datagrams that {} had not read are lost: they were sent to a loopback or "
                    "multicast address, or were too many",
                    unread.lost, container()));
  hold_->keep_first(std::move(unread.packets));
}

void SourceMove::undo_freeze() {
  urgent_.reset();
  if (notice_) notice_->end();
  if (!frozen_) return;
  if (undecided()) return leave_undecided();
  frozen_ = false;
  give_connections_back();
  // First of all the container runs again.
  fault::pass("source.undo.before-abort");
  if (reserved_) {
    if (auto r = services_.store->decide(id(), state::Decision::kAbort); !r)
      TS_LOG_ERROR("mig={} journal: {}", id(), r.error().message());
  }
  fault::pass("source.undo.aborted");
  if (shut_) {
    if (auto r = shut_->open(); !r) TS_LOG_ERROR("mig={} open the network: {}", id(), r.error().message());
    shut_.reset();
  }
  if (dump_) {
    if (auto r = dump_->rollback(Deadline::in(kCallLimit)); !r)
      TS_LOG_ERROR("mig={} rollback of the dump: {}", id(), r.error().message());
  }
  if (auto cgroup = sys::Cgroup::of_process(planned_.survey.container.pid); cgroup) {
    if (auto r = cgroup->thaw(Deadline::in(milliseconds(2000))); !r)
      TS_LOG_ERROR("mig={} {}", id(), r.error().message());
  }
  fault::pass("source.undo.thawed");
  if (hold_) {
    if (auto r = hold_->deliver_here(); !r) TS_LOG_WARN("mig={} deliver held packets: {}", id(), r.error().message());
  }
  volumes_thread_.join();
  rootfs_thread_.join();
  stop_memory();
  if (auto r = services_.cutover->rollback(cutover_); !r) TS_LOG_ERROR("mig={} cutover: {}", id(), r.error().message());
}

Result<> SourceMove::transfer() {
  TS_TRY(fault::at("source.transfer"));
  rootfs_thread_.join();
  TS_TRY_CTX(rootfs_outcome_, "last difference of the root file system");
  reporter_.gap_part("rootfs");
  volumes_thread_.join();
  TS_TRY_CTX(volumes_outcome_, "last difference of the volumes");
  if (volumes_->rounds() > 0) reporter_.gap_part("volumes");
  if (live_) {
    memory_thread_.join();
    TS_TRY_CTX(memory_outcome_, "memory that changed since the last round");
    TS_TRY(memory_->leave_out_shared(directory_ + "/images", directory_ + "/spare"));
    reporter_.gap_part("memory");
  }
  TS_TRY(images_->dump_done());
  TS_TRY_ASSIGN(files_, images_->finish());
  if (live_) {
    // CRIU has written to it as well, in its own way and until now.
    TS_TRY(follow_ ? memory_->send_eager(directory_ + "/images") : memory_->after_dump());
    memory_stats_ = memory_->stats();
  }
  TS_TRY(wait_armed());
  // After rounds little is left: the destination waits for it with the restore, and a round trip is saved.
  on_their_way_ = memory_stats_.rounds > 0 && !follow_ ? lanes_->counters().queued_chunks : 0;
  if (on_their_way_ == 0) TS_TRY(lanes_->flush(Deadline::in(kRoundLimit)));
  reporter_.gap_part("transfer");
  return {};
}

Result<> SourceMove::restore() {
  TS_TRY(fault::at("source.restore"));
  auto parked = ask_restore();
  return parked || !asked_ ? parked : settle_failed(std::move(parked).error());
}

Result<> SourceMove::ask_restore() {
  peer::Request request;
  auto& r = *request.mutable_restore();
  r.set_post_copy(follow_);
  r.set_chunks(on_their_way_);
  for (const auto& f : files_) {
    auto* file = r.add_files();
    file->set_name(f.name);
    file->set_size(f.size);
  }
  for (const auto& c : connections_) {
    auto* connection = r.add_connections();
    connection->set_local_ip(c.local.text());
    connection->set_local_port(c.local_port);
    connection->set_remote_ip(c.remote.text());
    connection->set_remote_port(c.remote_port);
  }
  if (follow_) TS_TRY(pusher_->begin(*std::exchange(push_link_, std::nullopt)));
  if (request_.new_address) take_connections();
  TS_TRY(begin_asking());
  TS_TRY_ASSIGN(peer::Reply reply, call(request, kCallLimit));
  parked_ = reply.parked();
  TS_TRY(fault::at("source.restore.parked"));
  taking_thread_.join();
  cutover_.new_addresses.assign(parked_.addresses().begin(), parked_.addresses().end());
  reporter_.gap_part("restore");
  if (on_their_way_ > 0) {
    reporter_.reckon_gap("transfer", "restore", parked_.arrival_ms());
    lanes_->all_consumed();
  }
  frozen_bytes_ = lanes_->counters().payload_bytes - frozen_bytes_;
  return {};
}

// ---- the decision

Result<> SourceMove::commit() {
  if (!forward_) {
    if (auto decided = decide(); !decided) TS_TRY(settle_failed(std::move(decided).error()));
  }
  fault::pass("source.commit.decided");
  // In post-copy the tasks live on after this, for their memory: however this process ends, they must not run again.
  dump_->keep_frozen();
  reporter_.gap_part("decide");
  return {};
}

Result<> SourceMove::decide() {
  TS_TRY(fault::at("source.commit"));
  TS_TRY(entered_);
  {
    MutexLock lock(mu_);
    TS_TRY(cancel_.check());
    decided_ = true;
  }
  // Now with the addresses that it has there.
  if (!cutover_.new_addresses.empty()) TS_TRY(save());
  TS_TRY(fault::at("source.commit.before-decide"));
  // On disk before anything acts on it: from here on it is committed, whoever asks.
  return write_commit();
}

// For a daemon that comes after a kill -9 of this one, from before Restore on: it has to find out who may run it.
Result<> SourceMove::save() const {
  const auto& container = planned_.survey.container;
  journal::ResumeFile file;
  auto& facts = *file.mutable_leaving();
  facts.set_peer(request_.peer);
  facts.set_lane_token(lane_token_);
  facts.set_container(this->container());
  facts.set_engine(container.engine);
  facts.set_container_id(container.id);
  facts.set_pid(container.pid);
  TS_TRY_ASSIGN(auto start, sys::start_time(container.pid));
  facts.set_start_time(start);
  TS_TRY_ASSIGN(auto cgroup, sys::Cgroup::of_process(container.pid));
  facts.set_cgroup(cgroup.path());
  facts.set_keep_source(request_.keep_source);
  facts.set_post_copy(follow_);
  facts.set_arbiter(decisions_->identity());
  facts.set_compression(static_cast<uint32_t>(request_.memory.compress));
  facts.set_link_bytes_per_second(link_bits_per_second() / 8);
  facts.set_max_bits_per_second(planned_.max_bits_per_second);
  *facts.mutable_network() = to_facts(container);
  facts.mutable_network()->clear_engine_spec();
  for (const auto& a : cutover_.new_addresses) facts.add_new_addresses(a);
  facts.mutable_network()->set_home(cutover_.home);
  facts.mutable_network()->set_home_id(cutover_.home_id);
  return write_resume_file(directory_, file);
}

Result<> SourceMove::release() {
  fault::pass("source.release");
  // A task with SIGKILL pending runs no user code any more, whatever becomes of CRIU: only now may the other side be
  // told. In post-copy their memory is still needed: CRIU and the cgroup both hold them.
  services_.passing.leave(planned_.survey.container.id, false);
  // With a new address it is their sockets: the next daemon must find them, should this one be killed.
  if (!follow_ && !request_.new_address) kill_source_tasks();
  fault::pass("source.release.killed");
  auto told = tell_commit();
  fault::pass("source.release.told");
  reporter_.gap_ends("release");
  urgent_.reset();
  if (!request_.new_address) lead_to_destination(told.has_value());
  services_.passing.leave(planned_.survey.container.id, true);
  if (request_.new_address) end_connections(told.has_value());
  if (!follow_ && request_.new_address) kill_source_tasks();
  if (notice_ && told && !request_.new_address) notice_->end();
  memory_.reset();
  if (!follow_) {
    end_source_tasks();
    return told;
  }
  // It asks for the decision by itself, and needs what is here in any case: follow() waits for it.
  if (!told) TS_LOG_WARN("mig={} phase=release: {}", id(), told.error().message());
  confirmed_ = told.has_value();
  return {};
}

void SourceMove::kill_source_tasks() {
  auto cgroup = sys::Cgroup::of_process(planned_.survey.container.pid);
  if (!cgroup) return;
  // Giving back a gigabyte takes tens of milliseconds, and others wait for the processors.
  for (pid_t pid : planned_.survey.pids) (void)::setpriority(PRIO_PROCESS, static_cast<id_t>(pid), 19);
  if (auto r = cgroup->kill_all(); !r) TS_LOG_ERROR("mig={} phase=release: {}", id(), r.error().message());
}

// The way first: what was held would come back by the old one. Also when the destination has not confirmed: it will,
// and here it never runs again.
void SourceMove::lead_to_destination(bool confirmed) {
  auto way = services_.cutover->left(cutover_);
  if (!way) {
    TS_LOG_ERROR("mig={} phase=release network: {}", id(), way.error().message());
    warnings_.push_back(fmt::format("network: {}", way.error().message()));
  }
  if (!hold_ || !confirmed) return;
  auto delivered = way && *way ? hold_->deliver_through(**way) : hold_->deliver_to(session_->remote().host);
  if (!delivered)
    warnings_.push_back(fmt::format("hold: kept packets were not delivered: {}", delivered.error().message()));
}

void SourceMove::end_source_tasks() {
  auto cgroup = sys::Cgroup::of_process(planned_.survey.container.pid);
  if (cgroup) (void)cgroup->kill_all();
  auto dead = dump_->commit(Deadline::in(kCallLimit));
  if (!dead) warnings_.push_back(fmt::format("source: {}", dead.error().message()));
  dead_ = dead.has_value();
  // An empty cgroup that is still frozen looks like a paused container to its engine.
  if (dead && cgroup) (void)cgroup->thaw(Deadline::in(milliseconds(100)));
}

Result<> SourceMove::tell_commit() {
  TS_TRY_ASSIGN(Cancel never, Cancel::create());
  peer::Request request;
  request.mutable_commit()->set_move_id(id());
  auto deadline = Deadline::in(kTellLimit);
  TS_TRY_ASSIGN(wire::PeerTarget target, services_.peer(request_.peer));
  auto reply = session_->call(request, Deadline::in(milliseconds(10'000)), never);
  heard(reply);
  while (!reply && !deadline.passed()) {
    TS_LOG_WARN("mig={} phase=commit tell {}: {}", id(), request_.peer, reply.error().message());
    (void)sleep_for(kTellEvery, never);
    auto again =
        PeerSession::connect(services_.identity, target, services_.settings.node, Deadline::in(kTellEvery * 4), never);
    if (again) reply = (*again)->call(request, Deadline::in(milliseconds(10'000)), never);
    heard(reply);
  }
  if (!reply)
    return std::unexpected(
        std::move(reply).error().context(fmt::format("{} has not confirmed the commit", request_.peer)));
  running_ = reply->running();
  return {};
}

Result<> SourceMove::cleanup() {
  fault::pass("source.cleanup");
  services_.cutover->settled(cutover_);
  // Only now: a packet that still came here would find no socket, and its sender would be told that there is none.
  if (dead_ && shut_) (void)shut_->open();
  shut_.reset();
  end_with_arbiter(true);
  if (offered_) services_.entries->settle(cutover_);
  notice_.reset();
  session_.reset();
  dump_.reset();
  breakpoints_.reset();
  auto& survey = planned_.survey;
  auto forgotten = survey.engine->forget(survey.container.id, request_.keep_source, Deadline::in(kForgetLimit));
  if (!forgotten)
    warnings_.push_back(
        fmt::format("the stopped source container was not removed yet: {}", forgotten.error().message()));
  // What goes on with it (take_rest) finds what it needs in there.
  unfinished_ = !forgotten;
  if (forgotten) tmpfs_ = {};
  if (auto left = forgotten ? volumes_->left() : Result<>(); !left)
    warnings_.push_back(fmt::format("volumes: what is left here will not be known again: {}", left.error().message()));
  fault::pass("source.cleanup.forgotten");
  services_.passing.remove(survey.container.id);
  (void)network::remove_moved_connections(survey.container.id);
  (void)sys::remove_tree(layers_dir_);
  if (request_.new_address) refuse_old_address();
  return {};
}

void SourceMove::end_hold(const std::vector<std::string>& addresses) {
  auto ours = planned_.survey.container.addresses;
  bool same =
      std::ranges::any_of(ours, [&](const auto& a) { return std::ranges::find(addresses, a.ip) != addresses.end(); });
  if (same) hold_.reset();
}

}  // namespace transship::migrate
