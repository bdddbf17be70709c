#include "migrate/live_memory.h"

#include "base/log.h"
#include "base/text.h"
#include "criu/lazy_images.h"
#include "criu/shared_images.h"
#include "memory/track/address_space.h"
#include "migrate/channels.h"

namespace transship::migrate {
namespace {

// How long rounds may go on while the destination waits at its gate, which holds its engine's lock meanwhile.
constexpr milliseconds kAtGateLimit{1500};
// Between two rounds while the destination gets ready.
constexpr milliseconds kArmingPause{10};
// The destination's engine needs about that long to the gate.
constexpr double kArmLeadSeconds = 0.6;
// Of shared memory, in post-copy; fewer when there is little left to send, or it does not get less.
constexpr int kRoundsAhead = 5;
constexpr uint64_t kFewPages = 512;
// Our own images: no limit that a container could reach.
constexpr uint64_t kAnyMemory = 1ULL << 46;

// A container can have thousands of processes.
constexpr size_t kNamedFindings = 5;
// Of what a process can have.
constexpr uint64_t kAddressEnd = 1ULL << 56;

std::vector<memory::PageRange> holes_between(const std::vector<memory::Vma>& vmas) {
  std::vector<memory::PageRange> holes;
  uint64_t end = 0;
  for (const auto& vma : vmas) {
    if (vma.start > end && end < kAddressEnd)
      holes.push_back({end, (std::min(vma.start, kAddressEnd) - end) / memory::kPageBytes});
    end = std::max(end, vma.end);
  }
  if (end < kAddressEnd) holes.push_back({end, (kAddressEnd - end) / memory::kPageBytes});
  return holes;
}

// Does one of `ranges` touch one of `holes`, which ascend?
bool any_in(std::span<const memory::PageRange> ranges, const std::vector<memory::PageRange>& holes) {
  return std::ranges::any_of(ranges, [&](const memory::PageRange& range) {
    auto after = std::ranges::lower_bound(holes, range.end(), {}, &memory::PageRange::address);
    return after != holes.begin() && std::prev(after)->end() > range.address;
  });
}

memory::PageSenderOptions sender_options(const LiveMemory::Settings& settings) {
  memory::PageSenderOptions options;
  options.compression = settings.options.compress;
  options.link_bytes_per_second = settings.link_bytes_per_second;
  return options;
}

}  // namespace

std::vector<std::string> late_memory_warnings(const std::vector<memory::Untracked>& findings) {
  std::vector<std::string> warnings;
  for (const auto& f : findings) {
    if (warnings.size() == kNamedFindings) {
      warnings.push_back(
          fmt::format("memory: {} more like these: sent after the freeze", findings.size() - kNamedFindings));
      break;
    }
    warnings.push_back(fmt::format("memory: {} (process {}) {}: sent after the freeze", f.process, f.pid, f.why));
  }
  return warnings;
}

LiveMemory::LiveMemory(const sys::Cgroup& cgroup, Settings settings, wire::LaneSender& lanes, Reporter& reporter,
                       Cancel cancel)
    : cgroup_(cgroup),
      settings_(std::move(settings)),
      lanes_(lanes),
      reporter_(reporter),
      cancel_(std::move(cancel)),
      shared_(memory::tasks_of(cgroup_)),
      outlet_(lanes_, sender_options(settings_), cancel_) {}

LiveMemory::~LiveMemory() = default;

Result<> LiveMemory::start_tracker(bool running) {
  auto choice = running ? memory::choose_tracker() : memory::TrackerChoice{memory::TrackerKind::kNone, {}};
  if (running && choice.kind == memory::TrackerKind::kNone)
    return std::unexpected(Error(Errc::kKernelFeatureMissing, "follow the container's writes: " + choice.why)
                               .with_remedy("move it with --mode post-copy or --mode stop-copy"));
  TS_TRY_ASSIGN(tracker_, memory::make_tracker(choice.kind, memory::tasks_of(cgroup_)));
  return {};
}

Result<> LiveMemory::attach() { return start_tracker(/*running=*/true); }

Result<> LiveMemory::end_throttle() {
  if (!throttle_) return {};
  TS_TRY(throttle_->lift());
  throttle_.reset();
  return {};
}

Result<> LiveMemory::send_block(const memory::PageBlock& block) {
  TS_TRY(outlet_.add(block));
  sent_pages_ += block.content.size() / memory::kPageBytes;
  report_progress();
  return {};
}

Result<> LiveMemory::send_run(const memory::PageRuns& runs) {
  if (runs.space.kind == memory::SpaceKind::kTask) {
    auto& told = told_.try_emplace(runs.space).first->second;
    // What has come where there was nothing may have gone again before it is told: then the list is the same.
    if (any_in(runs.ranges, told)) told.clear();
  }
  TS_TRY(reader_.read(runs, [this](const memory::PageBlock& block) { return send_block(block); }, cancel_));
  return {};
}

// The number of pages found dirty.
Result<uint64_t> LiveMemory::send_round(Look look, bool frozen) {
  begin_round();
  auto sink = [this](const memory::PageRuns& runs) { return send_run(runs); };
  TS_TRY_ASSIGN(auto found, ((*tracker_).*look)(sink, cancel_));
  TS_TRY_ASSIGN(uint64_t shared, send_shared(frozen));
  TS_TRY(end_round());
  return found.pages + shared;
}

// In every round: a page that is written all the time must count in every one of them, or the end is not foreseen.
Result<uint64_t> LiveMemory::send_shared(bool frozen) {
  if (shared_complete_) return 0;
  auto sink = [this](const memory::PageBlock& block) { return send_block(block); };
  TS_TRY_ASSIGN(auto found, shared_.round(sink, cancel_));
  shared_complete_ = frozen;
  if (found.objects > 0)
    TS_LOG_INFO("shared memory objects={} pages_read={} pages_sent={} us={} frozen={}", found.objects, found.pages_read,
                found.pages, found.took.count(), frozen);
  return found.pages;
}

Result<> LiveMemory::end_round() {
  TS_TRY_ASSIGN(auto sent, outlet_.finish_round());
  stats_.pages += sent.pages;
  stats_.zero_pages += sent.zero_pages;
  stats_.compression = sent.compression;
  return {};
}

Result<> LiveMemory::send_shared_ahead() {
  uint64_t before = UINT64_MAX;
  for (int i = 0; i < kRoundsAhead; ++i) {
    begin_round();
    TS_TRY_ASSIGN(uint64_t pages, send_shared(/*frozen=*/false));
    TS_TRY(end_round());
    TS_TRY(outlet_.flush());
    if (pages <= kFewPages || pages > before / 2) break;  // no use in going on
    before = pages;
  }
  return {};
}

Result<> LiveMemory::leave_out_shared(const std::string& images_dir, const std::string& spare_dir) {
  auto held = [this](uint64_t id, criu::ImageRange range) {
    std::vector<criu::ImageRange> parts;
    for (const auto& r : shared_.sent(id, {range.address, range.pages})) parts.push_back({r.address, r.pages});
    return parts;
  };
  TS_CHECK(shared_complete_);
  TS_TRY_CTX(criu::leave_out_shared(images_dir, spare_dir, held), "shared memory in CRIU's images");
  return {};
}

Result<bool> LiveMemory::pre_copy(const plan::ConvergeLimits& limits, const ArmControl& arm) {
  bool arming = false;
  std::optional<Clock::time_point> ready_since;
  while (true) {
    TS_TRY(cancel_.check());
    auto begin = Clock::now();
    uint64_t wire_before = lanes_.counters().wire_bytes;
    TS_TRY_ASSIGN(uint64_t pages, send_round(&memory::DirtyTracker::round, /*frozen=*/false));
    TS_TRY(outlet_.flush());
    TS_TRY(tell_gone());
    rounds_.push_back({pages * memory::kPageBytes, lanes_.counters().wire_bytes - wire_before,
                       std::chrono::duration<double>(Clock::now() - begin).count(), stats_.throttle_percent});
    stats_.rounds = static_cast<uint32_t>(rounds_.size());
    last_ = plan::converge(rounds_, stats_.throttle_percent, limits);
    report_decision(last_);
    if (arming && !ready_since) {
      TS_TRY_ASSIGN(bool ready, arm.is_ready());
      if (ready) ready_since = Clock::now();
    }
    bool late = ready_since && Clock::now() - *ready_since > kAtGateLimit;
    bool fits = last_.gap_ms <= limits.max_gap_ms;
    bool follows = last_.step == plan::ConvergeStep::kPostCopy;
    if (last_.step == plan::ConvergeStep::kGiveUp || (late && !fits && !follows)) TS_TRY(give_up(last_));
    if (last_.step == plan::ConvergeStep::kThrottle) TS_TRY(slow_down(last_.throttle_percent));
    bool now = last_.step == plan::ConvergeStep::kFreeze || follows;
    if (ready_since && (now || (late && fits))) return follows;
    if (now && !arming) arm.start();
    arming = arming || now;
    if (arming) TS_TRY(sleep_for(kArmingPause, cancel_));
  }
}

Result<> LiveMemory::slow_down(uint32_t percent) {
  if (!throttle_) {
    TS_TRY_ASSIGN(throttle_, sys::Throttle::create(cgroup_));
  }
  TS_TRY_CTX(throttle_->set(percent), "slow the container down");
  stats_.throttle_percent = percent;
  return {};
}

Result<> LiveMemory::give_up(const plan::Convergence& c) const {
  return std::unexpected(
      Error(Errc::kNotConverged, fmt::format("memory changes faster than it can be sent: {}", c.why))
          .with_remedy("try when it is less busy, allow a longer silence with --max-gap, let the rest follow after the "
                       "switch with --allow-post-copy, or stop it for the transfer with --mode stop-copy"));
}

Result<> LiveMemory::last_round(const ArmControl& arm) {
  if (!tracker_) TS_TRY(start_tracker(/*running=*/false));
  arm_ = &arm;
  auto pages = send_round(&memory::DirtyTracker::last_round, /*frozen=*/true);
  arm_ = nullptr;
  TS_TRY(pages);
  stats_.bytes_last_round += *pages * memory::kPageBytes;
  return outlet_.flush();
}

Result<> LiveMemory::after_dump() {
  TS_TRY(send_round(&memory::DirtyTracker::after_dump, /*frozen=*/true));
  return {};
}

Result<> LiveMemory::send_stale(const memory::PageRuns& runs) {
  std::vector<std::byte> frame;
  memory::PageBatch batch{runs.space, {}, {}};
  auto send = [&]() -> Result<> {
    TS_TRY(memory::encode_batch(batch, memory::Compression::kNone, 0, frame));
    wire::Buffer buffer(frame.begin(), frame.end());
    batch.segments.clear();
    return lanes_.send(static_cast<uint8_t>(Channel::kStalePages), "pages", 0, std::move(buffer), wire::Route::kSpread);
  };
  for (const auto& range : runs.ranges) {
    if (!batch.segments.empty() &&
        (batch.segments.size() == memory::kBatchSegments || range.address < batch.segments.back().range.end()))
      TS_TRY(send());
    batch.segments.push_back({range, true});
  }
  return batch.segments.empty() ? Result<>{} : send();
}

// Between two rounds: processes that have ended (a forked one is a copy of all its parent's memory) and mappings that
// are no more would fill what the destination has reserved. Only what is news: waiting for the destination costs a
// round trip.
Result<> LiveMemory::tell_gone() {
  if (told_.empty()) return {};
  bool news = false;
  TS_TRY_ASSIGN(auto tasks, memory::tasks_by_inner_pid(cgroup_));
  for (auto it = told_.begin(); it != told_.end();) {
    auto task = tasks.find(it->first.id);
    std::vector<memory::PageRange> gone{{0, kAddressEnd / memory::kPageBytes}};
    if (task != tasks.end()) {
      auto vmas = memory::read_vmas(task->second);
      // It ends just now, or its first thread has: the next round tells.
      gone = vmas && !vmas->empty() ? holes_between(*vmas) : it->second;
    }
    if (gone != it->second) {
      TS_TRY(send_stale({it->first, 0, gone}));
      it->second = std::move(gone);
      news = true;
    }
    it = task == tasks.end() ? told_.erase(it) : std::next(it);
  }
  // Before any page of the next round, which may be where a hole was.
  return news ? outlet_.flush() : Result<>{};
}

Result<> LiveMemory::tell_stale() {
  TS_TRY_ASSIGN(uint64_t shared, send_shared(/*frozen=*/true));
  TS_TRY(end_round());
  stats_.bytes_last_round += shared * memory::kPageBytes;
  if (!tracker_) return {};  // nothing else has been sent
  auto sink = [this](const memory::PageRuns& runs) { return send_stale(runs); };
  TS_TRY_ASSIGN(auto found, tracker_->last_round(sink, cancel_));
  stats_.bytes_last_round += found.pages * memory::kPageBytes;
  return outlet_.flush();
}

Result<> LiveMemory::send_eager(const std::string& images_dir) {
  TS_TRY_ASSIGN(auto plan, criu::plan_lazy_restore(images_dir, kAnyMemory));
  TS_TRY_ASSIGN(auto tasks, memory::tasks_by_inner_pid(cgroup_));
  for (const auto& s : plan.spaces) {
    if (s.space.shared || (s.eager.empty() && s.early.empty())) continue;
    auto task = tasks.find(s.space.id);
    if (task == tasks.end()) return fail(Errc::kCorrupt, "CRIU dumped process {}, which is not there", s.space.id);
    std::vector<memory::PageRange> ranges;
    for (const auto* list : {&s.eager, &s.early})
      for (const auto& r : *list) ranges.push_back({r.address, r.pages});
    TS_TRY(send_run({{memory::SpaceKind::kTask, s.space.id}, task->second, ranges}));
  }
  TS_TRY(outlet_.finish_round());
  return {};
}

void LiveMemory::begin_round() {
  sent_pages_ = 0;
  round_begun_ = Clock::now();
}

void LiveMemory::report_progress() {
  uint64_t sent = sent_pages_ * memory::kPageBytes;
  uint64_t total = rounds_.empty() ? std::max(settings_.expected_bytes, sent) : 0;
  if (arm_ != nullptr && arm_->start && total > 0 &&
      static_cast<double>(total - sent) < kArmLeadSeconds * settings_.link_bytes_per_second)
    arm_->start();
  local::ProgressEvent event;
  event.set_bytes_done(sent);
  event.set_bytes_total(total);
  event.set_round(arm_ == nullptr ? static_cast<uint32_t>(rounds_.size()) + 1 : 0);
  double seconds = std::chrono::duration<double>(Clock::now() - round_begun_).count();
  set_pace(event, seconds);
  // How much a later round finds is known at its end; how long all of them take was foreseen after the last one.
  if (total == 0 && last_.eta_seconds > seconds)
    event.set_eta_ms(static_cast<uint64_t>((last_.eta_seconds - seconds) * 1000));
  event.set_dirty_bytes_per_second(last_.dirty_bytes_per_second);
  event.set_predicted_gap_ms(static_cast<uint64_t>(last_.gap_ms));
  reporter_.round_progress(event);
}

void LiveMemory::report_decision(const plan::Convergence& c) {
  stats_.predicted_gap_ms = c.gap_ms;
  local::ProgressEvent event;
  event.set_bytes_done(rounds_.back().dirty_bytes);
  event.set_bytes_total(rounds_.back().dirty_bytes);
  event.set_bytes_per_second(c.send_bytes_per_second);
  event.set_eta_ms(static_cast<uint64_t>(c.eta_seconds * 1000));
  event.set_round(static_cast<uint32_t>(rounds_.size()));
  event.set_dirty_bytes_per_second(c.dirty_bytes_per_second);
  event.set_predicted_gap_ms(static_cast<uint64_t>(c.gap_ms));
  event.set_decision(c.why);
  reporter_.round_progress(event);
  TS_LOG_INFO("round={} dirty_bytes={} wire_bytes={} seconds={:.3f} gap_ms={:.0f} {}", rounds_.size(),
              rounds_.back().dirty_bytes, rounds_.back().wire_bytes, rounds_.back().seconds, c.gap_ms, c.why);
}

std::vector<std::string> LiveMemory::warnings() const {
  auto findings = shared_.findings();
  std::ranges::move(tracker_->findings(), std::back_inserter(findings));
  return late_memory_warnings(findings);
}

}  // namespace transship::migrate
