// Phases I and II of the source, the phase list, and how a move ends.
#include "migrate/source.h"

#include "base/fault.h"
#include "base/log.h"
#include "base/text.h"
#include "base/wall_clock.h"
#include "migrate/channels.h"
#include "migrate/convert.h"
#include "migrate/lane_writer.h"
#include "migrate/resume_file.h"
#include "storage/image.h"
#include "storage/tree_delta.h"
#include "sys/cgroup.h"

namespace transship::migrate {
namespace {

constexpr milliseconds kCallLimit{30'000};
// A registry may be slow and an image large.
constexpr milliseconds kPrepareLimit{20 * 60'000};
constexpr milliseconds kRoundLimit{60 * 60'000};

// What the images will hold may grow between the plan and the freeze.
uint64_t images_reserve(const TaskFindings& tasks, bool live) {
  uint64_t bytes = (live ? 0 : tasks.anonymous_bytes) + tasks.shared_bytes + tasks.tmpfs_bytes;
  return bytes + bytes / 4 + (32U << 20);
}

}  // namespace

SourceMove::SourceMove(Services& services, SourceRequest request, Reporter::Sink sink, Cancel cancel)
    : services_(services),
      request_(std::move(request)),
      reporter_(request_.move_id, std::move(sink)),
      cancel_(std::move(cancel)),
      leaving_(Cancel::create().value()),
      started_ms_(unix_ms_now()),
      directory_(services.settings.run_dir + "/moves/" + request_.move_id),
      layers_dir_(services.settings.state_dir + "/moves/" + request_.move_id) {
  container_ = request_.container;
}

SourceMove::~SourceMove() {
  services_.passing.remove(planned_.survey.container.id);
  if (leaving_.cancelled()) tmpfs_.keep();
}

std::optional<journal::Leaving> SourceMove::take_rest() {
  if (!unfinished_ || leaving_.cancelled()) return std::nullopt;
  auto file = read_resume_file(directory_);
  if (!file || !file->has_leaving()) {
    // The decision itself could not be written, or confirmed.
    (void)record("in doubt", file ? "what is left to do is not known" : file.error().message(), "");
    return std::nullopt;
  }
  notice_.reset();
  hold_.reset();
  session_.reset();
  lanes_.reset();
  dump_.reset();  // in post-copy the tasks stay frozen
  shut_.reset();
  tmpfs_.keep();
  return file->leaving();
}

std::string SourceMove::container() const {
  MutexLock lock(mu_);
  return container_;
}

bool SourceMove::cancel(const std::string& reason) {
  MutexLock lock(mu_);
  if (decided_) return false;
  cancel_.cancel(reason);
  if (memory_cancel_) memory_cancel_->cancel(reason);
  return true;
}

std::vector<Phase> SourceMove::phases() {
  std::vector<Phase> list;
  list.push_back({"plan", [this] { return plan(); }});
  list.push_back({"reserve", [this] { return reserve(); }, [this] { undo_reserve(); }});
  list.push_back({"prepare", [this] { return prepare(); }});
  list.push_back({"rootfs", [this] { return copy_rootfs(); }});
  list.push_back({"volumes", [this] { return copy_volumes(); }, [this] { volumes_.reset(); }});
  list.push_back({"ready", [this] { return get_ready(); }, [this] { undo_ready(); }});
  list.push_back({"memory", [this] { return copy_memory(); }, [this] { undo_memory(); }});
  // From here on the container stands still.
  list.push_back({"dump", [this] { return freeze_and_dump(); }, [this] { undo_freeze(); }});
  list.push_back({"transfer", [this] { return transfer(); }});
  list.push_back({"restore", [this] { return restore(); }});
  // From the end of this one on it runs on the destination and nowhere else: nothing is undone any more.
  list.push_back({"commit", [this] { return commit(); }, {}, true});
  list.push_back({"release", [this] { return release(); }});
  list.push_back({"follow", [this] { return follow(); }});
  list.push_back({"cleanup", [this] { return cleanup(); }});
  return list;
}

void SourceMove::run() {
  auto list = phases();
  auto outcome = run_phases(list, [this](const std::string& name) { return before_phase(name); });
  report_end(outcome);
}

Result<> SourceMove::before_phase(const std::string& name) {
  bool too_late = false;
  {
    MutexLock lock(mu_);
    too_late = decided_;
  }
  reporter_.start_phase(name);
  TS_LOG_INFO("mig={} phase={} container={}", id(), name, container());
  // Once Restore has been said it is not for this place to end it: commit() finds out how.
  if (!too_late && !asked_) TS_TRY(cancel_.check());
  auto written = enter(state_in_phase(name));
  if (!written) written = std::unexpected(std::move(written).error().context("write the journal"));
  if (asked_) entered_ = written;
  // Decided, it goes on whatever the disk says.
  return too_late || asked_ ? Result<>() : written;
}

// Written down before anything is done of it. Not forced to the disk: a container does not outlive its host, and what a
// daemon has written survives the daemon.
Result<> SourceMove::enter(SourceState next) {
  {
    MutexLock lock(mu_);
    TS_CHECK(next == state_ || may_follow(state_, next));
    if (next != state_ || state_since_ms_ == 0) state_since_ms_ = unix_ms_now();
    state_ = next;
  }
  return record("running", "", restarts_held_.value_or(""));
}

Standing SourceMove::standing() const {
  Standing s;
  s.move_id = id();
  s.here = services_.settings.node;
  s.peer = request_.peer;
  MutexLock lock(mu_);
  s.container = container_;
  s.source = state_;
  s.since_ms = state_since_ms_;
  s.post_copy = follow_;
  s.last_word = last_word_;
  return s;
}

void SourceMove::heard(const Result<peer::Reply>& reply) {
  auto phase = reporter_.phase();
  MutexLock lock(mu_);
  if (!reply) return last_word_.failed(reply.error());
  last_word_.said(fmt::format("answered in phase {}", phase), unix_ms_now());
}

Result<peer::Reply> SourceMove::call(const peer::Request& request, milliseconds limit) {
  auto reply = session_->call(request, Deadline::in(limit), cancel_);
  heard(reply);
  return reply;
}

double SourceMove::link_bits_per_second() const {
  auto limit = static_cast<double>(planned_.max_bits_per_second);
  return limit > 0 ? std::min(limit, planned_.bits_per_second) : planned_.bits_per_second;
}

// ---- Phase I

Result<> SourceMove::plan() {
  TS_TRY(fault::at("source.plan"));
  TS_TRY_ASSIGN(wire::PeerTarget target, services_.peer(request_.peer));
  auto session = PeerSession::connect(services_.identity, target, services_.settings.node,
                                      Deadline::in(milliseconds(10'000)), cancel_);
  std::string link_error;
  if (session)
    session_ = std::move(*session);
  else
    link_error = session.error().message();
  TS_TRY(cancel_.check());
  TS_TRY_ASSIGN(
      planned_,
      make_plan(services_, request_.container, request_.peer, session_ ? &session_->session() : nullptr, link_error,
                {request_.max_bits_per_second, request_.memory.mode, request_.new_address}, cancel_));
  {
    MutexLock lock(mu_);
    container_ = fmt::format("{}:{}", planned_.survey.container.engine, planned_.survey.container.name);
  }
  local::MoveEvent event;
  *event.mutable_plan() = to_reply(planned_);
  reporter_.emit(std::move(event));
  if (planned_.result.blocked) {
    // An unreachable peer is not a judgement of the container: its own code, so that scripts can try again.
    Errc code = session_ ? Errc::kRefused : Errc::kUnavailable;
    return std::unexpected(Error(code, fmt::format("{} cannot move to {}: {}", container(), request_.peer,
                                                   plan::blocking_text(planned_.result.rows)))
                               .with_remedy(plan::blocking_remedies(planned_.result.rows)));
  }
  for (const auto& row : planned_.result.rows) {
    if (row.verdict == plan::Verdict::kWarn) warnings_.push_back(fmt::format("{}: {}", row.check, row.found));
  }
  return {};
}

Result<> SourceMove::reserve() {
  TS_TRY(fault::at("source.reserve"));
  session_->keep_alive(services_.settings.reservation_ttl / 3);
  peer::Request request;
  auto& r = *request.mutable_reserve();
  const auto& s = planned_.survey;
  r.set_move_id(id());
  decisions_ = std::make_unique<DecisionRegister>(*services_.store, services_.arbiter.get(), id(), planned_.arbiter);
  r.set_arbiter(planned_.arbiter);
  cutover_ = cutover_facts(s.container);
  cutover_.move_id = id();
  cutover_.source = services_.settings.node;
  cutover_.source_address = session_->local().host;
  cutover_.destination = request_.peer;
  cutover_.destination_address = session_->remote().host;
  services_.cutover->identify(cutover_);
  // Drivers other than the tunnel know of no homes; entries and names do.
  if (request_.new_address && cutover_.home.empty()) cutover_.home = services_.identity.fingerprint().text();
  *r.mutable_container() = to_facts(s.container);
  r.mutable_container()->set_home(cutover_.home);
  r.mutable_container()->set_home_id(cutover_.home_id);
  for (const auto& port : planned_.exposed) *r.mutable_container()->add_exposed() = port;
  live_ = services_.settings.memory_method.method != criu::MemoryMethod::kFull;
  r.set_live_memory(live_);
  r.set_images_bytes(images_reserve(s.tasks, live_));
  // Pages that have arrived and the container's own are the same memory, but for shared ones: those are in the images
  // as well until it runs, and the store keeps them as long.
  r.set_memory_bytes(s.tasks.memory_bytes + (live_ ? s.tasks.shared_bytes : 0));
  // It grows while it runs.
  if (live_) r.set_page_bytes(s.tasks.memory_bytes + s.tasks.memory_bytes / 4 + (64U << 20));
  // The difference is measured now, copied later, and what changes of it is copied again. The image only when it is not
  // there.
  r.set_storage_bytes(2 * planned_.rootfs.bytes + planned_.rootfs.bytes / 2 + (128U << 20) +
                      (planned_.judged.image_present() ? 0 : s.container.image_bytes));
  // What is there of them changes as well.
  if (auto bytes = s.volume_bytes; bytes > 0) r.set_volume_bytes(bytes + bytes / 4 + (256U << 20));
  r.set_ttl_seconds(static_cast<uint32_t>(services_.settings.reservation_ttl.count() / 1000));
  reserved_ = true;  // set before the answer: an answer that is lost still needs undoing
  TS_TRY_ASSIGN(peer::Reply reply, call(request, kCallLimit));
  lane_token_ = reply.reserved().lane_token();
  TS_TRY(fault::at("source.reserve.answered"));
  wire::LaneOptions options;
  options.lanes = services_.settings.lanes;
  options.max_bytes_per_second = planned_.max_bits_per_second / 8;
  TS_TRY_ASSIGN(wire::PeerTarget target, services_.peer(request_.peer));
  TS_TRY_ASSIGN(lanes_,
                wire::LaneSender::connect(services_.identity, target, session_->remote(), services_.settings.node, id(),
                                          lane_token_, options, Deadline::in(kCallLimit), cancel_));
  return {};
}

void SourceMove::undo_reserve() {
  lanes_.reset();
  // The destination is not to take this for a word about the decision.
  if (undecided()) session_.reset();
  if (!reserved_ || !session_) return;
  // The destination undoes the same by itself when it cannot hear this: the session ends with this object.
  auto not_cancelled = Cancel::create();
  peer::Request request;
  request.mutable_abort()->set_reason(cancel_.cancelled() ? cancel_.reason() : "the move failed on the source");
  if (not_cancelled) {
    auto told = session_->call(request, Deadline::in(kCallLimit), *not_cancelled);
    if (!told) TS_LOG_WARN("mig={} tell {} to undo: {}", id(), request_.peer, told.error().message());
    end_with_arbiter(told.has_value());
  }
  session_.reset();
}

// ---- Phase II

Result<> SourceMove::prepare() {
  TS_TRY(fault::at("source.prepare"));
  peer::Request request;
  request.mutable_prepare();
  for (int tries = 0;; ++tries) {
    TS_TRY_ASSIGN(peer::Reply reply, call(request, kPrepareLimit));
    const auto& prepared = reply.prepared();
    if (!prepared.image_missing()) {
      volume_generations_.assign(prepared.volume_generations().begin(), prepared.volume_generations().end());
      return {};
    }
    if (tries > 0)
      return fail(Errc::kUnavailable, "the image {} was sent to {} and is still not there: {}",
                  planned_.survey.container.image, request_.peer, prepared.image_error());
    TS_TRY(send_missing_image(prepared.image_error()));
  }
}

Result<> SourceMove::send_missing_image(const std::string& why) {
  const auto& container = planned_.survey.container;
  reporter_.start_phase(
      "image", fmt::format("no registry serves it to {} ({}): sending the missing layers", request_.peer, why));
  auto deadline = Deadline::in(kPrepareLimit);
  (void)sys::remove_tree(layers_dir_);
  auto exported = storage::export_image({}, container.image_id, layers_dir_, deadline, cancel_);
  auto send = [&]() -> Result<> {
    if (!exported) return std::unexpected(exported.error());
    peer::Request needed;
    needed.mutable_image_needed();
    TS_TRY_ASSIGN(peer::Reply reply, call(needed, kCallLimit));
    std::vector<std::string> present;
    const auto& missing = reply.image_needed().layers_missing();
    for (const auto& id : exported->diff_ids) {
      if (std::ranges::find(missing, id) == missing.end()) present.push_back(id);
    }
    auto files = exported->files_needed(present);
    uint64_t total = 0;
    uint64_t sent = 0;
    for (const auto& file : files) total += std::filesystem::file_size(layers_dir_ + "/" + file);
    for (const auto& file : files) TS_TRY(send_image_file(layers_dir_, file, sent, total));
    TS_TRY(lanes_->flush(deadline));
    image_bytes_ = sent;
    peer::Request load;
    load.mutable_image_load()->set_reference(container.image);
    TS_TRY(call(load, kPrepareLimit));
    return {};
  };
  auto r = send();
  (void)sys::remove_tree(layers_dir_);
  return r;
}

Result<> SourceMove::send_image_file(const std::string& directory, const std::string& file, uint64_t& sent,
                                     uint64_t total) {
  TS_TRY_ASSIGN(Fd fd, open_file(directory + "/" + file, O_RDONLY));
  for (uint64_t offset = 0;;) {
    auto buffer = lanes_->take_buffer(LaneWriter::kChunk);
    TS_TRY_ASSIGN(size_t n, read_some(fd.get(), buffer));
    if (n == 0) return {};
    buffer.resize(n);
    TS_TRY(lanes_->send(static_cast<uint8_t>(Channel::kImageLayer), file, offset, std::move(buffer),
                        wire::Route::kSpread));
    offset += n;
    sent += n;
    reporter_.progress(sent, total);
  }
}

// As far as they can be told: they may end at any time.
std::vector<pid_t> SourceMove::tasks_now() const {
  auto cgroup = sys::Cgroup::of_process(planned_.survey.container.pid);
  auto pids = cgroup ? cgroup->processes() : Result<std::vector<pid_t>>(planned_.survey.pids);
  return pids ? *pids : planned_.survey.pids;
}

// The last round is made while the tasks stand still.
Result<> SourceMove::send_rootfs_round(bool last) {
  const auto& container = planned_.survey.container;
  TS_TRY_ASSIGN(Fd root, open_file(travelling_root(container), O_RDONLY | O_DIRECTORY));
  storage::RoundOptions options;
  options.must_be_still = last;
  Fd merged;
  if (container.rootfs_kind == "overlay") {
    if (auto fd = open_file(container.rootfs, O_RDONLY | O_DIRECTORY); fd) merged = std::move(*fd);
    options.merged_fd = merged.get();
  }
  // In each round: what is written through a mapping after this one has read it shows in nothing, and the mapping may
  // be gone when the last one looks.
  auto mapped = storage::shared_writable_inodes(last ? planned_.survey.pids : tasks_now(), root.get());
  if (!mapped && last) return std::unexpected(std::move(mapped).error());
  if (mapped) options.always_resend = std::move(mapped->inodes);
  LaneWriter writer(*lanes_, Channel::kRootfs, rootfs_stream(round_));
  TS_TRY_ASSIGN(storage::Scan scan,
                storage::send_round(root.get(), writer, scan_ ? &*scan_ : nullptr, options, cancel_));
  TS_TRY(writer.finish());
  scan_ = std::move(scan);
  rootfs_bytes_ += writer.sent();
  return {};
}

Result<> SourceMove::copy_rootfs() {
  TS_TRY(fault::at("source.rootfs"));
  round_ = 0;
  TS_TRY(send_rootfs_round(false));
  TS_TRY(lanes_->flush(Deadline::in(kRoundLimit)));
  peer::Request request;
  request.mutable_rootfs_applied()->set_round(round_);
  TS_TRY(call(request, kRoundLimit));
  return {};
}

Result<> SourceMove::copy_volumes() {
  TS_TRY(fault::at("source.volumes"));
  VolumesLink link{id(), lane_token_, request_.peer, planned_.max_bits_per_second};
  TS_TRY_ASSIGN(volumes_,
                SourceVolumes::open(services_, link, planned_.survey.container, volume_generations_, cancel_));
  uint64_t total = planned_.survey.volume_bytes;
  TS_TRY(volumes_->copy([&](uint64_t sent) { reporter_.progress(sent, std::max(sent, total)); }));
  // Memory has most of the link from here on.
  uint64_t share = planned_.max_bits_per_second / 4;
  if (share > 0 && volumes_->sent_bytes() > 0) lanes_->set_rate((planned_.max_bits_per_second - share) / 8);
  volumes_->follow(share);
  return {};
}

// ---- the end

std::string SourceMove::source_state(bool& running) const {
  running = false;
  const auto& c = planned_.survey.container;
  // A plan that did not get as far as the container has not touched it either.
  if (planned_.survey.engine == nullptr) {
    auto found = find_container(services_, request_.container);
    running = found && found->container.pid > 0;
    return running ? fmt::format("{} runs on {} as before", container(), services_.settings.node)
                   : "nothing was touched";
  }
  auto now = planned_.survey.engine->inspect(c.id);
  if (!now) return fmt::format("could not be asked for: {}", now.error().message());
  if (now->pid <= 0 || now->pid != c.pid)
    return fmt::format("{} is {} on {}", container(), now->state, services_.settings.node);
  auto cgroup = sys::Cgroup::of_process(now->pid);
  auto frozen = cgroup ? cgroup->frozen() : Result<bool>(false);
  if (frozen && *frozen) return fmt::format("{} is still frozen on {}", container(), services_.settings.node);
  running = true;
  return fmt::format("{} runs on {} as before", container(), services_.settings.node);
}

Result<> SourceMove::record(const std::string& state, const std::string& error, const std::string& summary) {
  state::Move move;
  move.id = id();
  move.container = container();
  move.engine = planned_.survey.container.engine;
  move.from = services_.settings.node;
  move.to = request_.peer;
  move.role = "source";
  move.state = state;
  move.phase = reporter_.phase();
  move.started_ms = started_ms_;
  move.ended_ms = state == "running" ? 0 : unix_ms_now();
  move.error = error;
  move.summary = summary;
  return services_.unrecorded.put(*services_.store, move);
}

void SourceMove::report_end(const PhaseOutcome& outcome) {
  fault::pass("source.end.before-record");
  if (!outcome.result) return report_failure(outcome);
  reporter_.end_phase();
  local::MoveEvent event;
  auto& s = *event.mutable_summary();
  reporter_.fill(s);
  s.set_container(container());
  s.set_from(services_.settings.node);
  s.set_to(request_.peer);
  auto counters = lanes_->counters();
  s.set_bytes_sent(counters.wire_bytes + followed_.wire_bytes + volumes_->wire_bytes());
  s.set_bytes_volumes(volumes_->sent_bytes());
  s.set_volume_rounds(volumes_->rounds());
  s.set_bytes_memory(counters.payload_bytes - rootfs_bytes_ - image_bytes_ + followed_.payload_bytes);
  s.set_bytes_rootfs(rootfs_bytes_);
  s.set_bytes_image(image_bytes_);
  auto held = hold_ ? hold_->stats() : network::HoldStats{};
  s.set_packets_held(held.held_packets);
  s.set_packets_dropped(held.dropped_packets);
  s.set_source_kept(request_.keep_source);
  if (link_bits_per_second() > 0)
    s.set_transfer_ms_at_link_rate(
        static_cast<uint64_t>(static_cast<double>(frozen_bytes_) * 8000 / link_bits_per_second()));
  fill_memory(s);
  fill_addresses(s);
  for (const auto& w : warnings_) s.add_warnings(w);
  TS_LOG_INFO("mig={} done container={} to={} total_ms={} frozen_ms={} bytes={}", id(), container(), request_.peer,
              s.total_ms(), s.frozen_ms(), s.bytes_sent());
  {
    MutexLock lock(mu_);
    state_ = SourceState::kDone;
  }
  (void)record("done", "", s.SerializeAsString());
  reporter_.emit(std::move(event));
}

void SourceMove::report_failure(const PhaseOutcome& outcome) {
  const Error& error = outcome.result.error();
  reporter_.fail_phase(error.message());
  local::MoveEvent event;
  auto& f = *event.mutable_failure();
  f.set_code(std::string(errc_name(cancel_.cancelled() && !outcome.committed ? Errc::kCancelled : error.code())));
  f.set_phase(outcome.failed);
  f.set_message(error.message());
  f.set_remedy(error.remedy());
  bool decided = false;
  {
    MutexLock lock(mu_);
    decided = decided_;
    if (!decided && !undecided()) state_ = SourceState::kRolledBack;
  }
  f.set_committed(decided);
  bool running = false;
  if (undecided() && !decided) {
    f.set_source_state(
        fmt::format("{} stands still on {}: it is not known whether {} runs it. The next daemon finds out", container(),
                    services_.settings.node, request_.peer));
  } else if (decided) {
    f.set_source_state(
        fmt::format("the move is decided: {} belongs to {} now; what is left is done as soon as it answers",
                    container(), request_.peer));
  } else {
    f.set_source_state(source_state(running));
  }
  f.set_source_running(running);
  TS_LOG_ERROR("mig={} phase={} failed: {} ({})", id(), outcome.failed, error.message(), f.source_state());
  unfinished_ = decided;
  // Left to another object, or to the next daemon, it is not over.
  bool open = decided || undecided();
  (void)record(open ? "running" : cancel_.cancelled() ? "cancelled" : "rolled-back", error.message(), "");
  reporter_.emit(std::move(event));
}

}  // namespace transship::migrate
