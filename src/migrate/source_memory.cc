// Phase II of the source, its memory: rounds, and the destination made ready meanwhile.
#include "base/fault.h"
#include "base/log.h"
#include "base/text.h"
#include "engine/oci_bundle.h"
#include "migrate/source.h"

namespace transship::migrate {
namespace {

constexpr milliseconds kCallLimit{30'000};
constexpr milliseconds kConnectLimit{10'000};
// Without a word from the destination. It waits as well: nothing is lost, only slow.
constexpr milliseconds kFollowPatience{60 * 60'000};

}  // namespace

Result<> SourceMove::copy_memory() {
  TS_TRY(fault::at("source.memory"));
  if (!live_) return copy_in_images();
  TS_TRY_ASSIGN(sys::Cgroup cgroup, sys::Cgroup::of_process(planned_.survey.container.pid));
  LiveMemory::Settings settings;
  settings.options = request_.memory;
  settings.expected_bytes = planned_.survey.tasks.memory_bytes;
  settings.link_bytes_per_second = link_bits_per_second() / 8;
  TS_TRY_ASSIGN(Cancel stop, Cancel::create());
  {
    MutexLock lock(mu_);
    TS_TRY(cancel_.check());
    memory_cancel_ = stop;
  }
  memory_ = std::make_unique<LiveMemory>(cgroup, settings, *lanes_, reporter_, stop);
  TS_TRY_ASSIGN(auto limits, converge_limits());
  if (request_.memory.mode == plan::MemoryMode::kStopCopy) {
    // The engine's start holds its lock: it is called when the end of the transfer is near (last_round).
    TS_TRY(start_dump());
    return {};
  }
  if (request_.memory.mode == plan::MemoryMode::kPostCopy) {
    follow_ = true;
    TS_TRY(memory_->send_shared_ahead());
  } else {
    auto attached = memory_->attach();
    // Without a way to follow its writes, auto falls back on what always works.
    if (!attached && attached.error().code() == Errc::kKernelFeatureMissing &&
        request_.memory.mode == plan::MemoryMode::kAuto) {
      warnings_.push_back("memory is copied while it stands still: " + attached.error().message());
      return start_dump();
    }
    TS_TRY(attached);
    TS_TRY_ASSIGN(follow_, memory_->pre_copy(limits, arm_control()));
    std::ranges::move(memory_->warnings(), std::back_inserter(warnings_));
  }
  arm_control().start();
  TS_TRY(wait_armed());
  return follow_ ? prepare_to_follow() : Result<>{};
}

// CRIU cannot leave memory out on this host: that is stop-and-copy, and nobody is to think that it is anything else.
Result<> SourceMove::copy_in_images() {
  const auto& why = services_.settings.memory_method.why;
  auto mode = request_.memory.mode;
  if (mode == plan::MemoryMode::kPreCopy || mode == plan::MemoryMode::kPostCopy)
    return std::unexpected(Error(Errc::kKernelFeatureMissing,
                                 fmt::format("{} cannot be done from this host: {}", plan::memory_mode_name(mode), why))
                               .with_remedy("move it with --mode stop-copy"));
  if (mode == plan::MemoryMode::kAuto) warnings_.push_back("memory: copied while it stands still: " + why);
  return start_dump();
}

// Nothing of it is of use any more: it must not be waited for.
void SourceMove::stop_memory() {
  {
    MutexLock lock(mu_);
    if (memory_cancel_) memory_cancel_->cancel("undone");
  }
  memory_thread_.join();
  pusher_.reset();
  push_link_.reset();
}

void SourceMove::undo_memory() {
  stop_memory();
  arm_thread_.join();
  memory_.reset();
  dump_.reset();
}

// What is in the gap however small the memory is, and whether that may be.
Result<plan::ConvergeLimits> SourceMove::converge_limits() {
  const auto& options = request_.memory;
  plan::ConvergeLimits limits;
  limits.max_gap_ms = options.max_gap_ms;
  limits.may_throttle = options.may_throttle;
  limits.may_post_copy = options.allow_post_copy && options.mode == plan::MemoryMode::kAuto;
  const auto& p = planned_.result.prediction;
  limits.fixed_ms = static_cast<double>(p.freeze_ms + p.dump_ms + p.restore_ms + p.commit_ms);
  if (options.mode == plan::MemoryMode::kStopCopy) limits.fixed_ms += static_cast<double>(p.transfer_ms);
  if (limits.fixed_ms <= limits.max_gap_ms) return limits;
  std::string text = fmt::format("a gap of {:.0f} ms is predicted, freeze {}, dump {}, restore {}, commit {} ms",
                                 limits.fixed_ms, p.freeze_ms, p.dump_ms, p.restore_ms, p.commit_ms);
  if (options.max_gap_given)
    return std::unexpected(
        Error(Errc::kNotConverged, fmt::format("{}: more than the {:.0f} ms allowed", text, options.max_gap_ms))
            .with_remedy("allow more with --max-gap"));
  warnings_.push_back(fmt::format("gap: {}: more than the {:.0f} ms aimed at", text, options.max_gap_ms));
  limits.max_gap_ms = limits.fixed_ms + 100;
  return limits;
}

// ---- the destination at its gate

// Those who look after it would take it for dead. Nobody waits for them.
void SourceMove::notice_begins() {
  if (notice_ || services_.moving == nullptr || cutover_.addresses.empty()) return;
  notice_ = std::make_unique<MovingNotice>(*services_.moving, cutover_);
}

Result<> SourceMove::arm() {
  TS_TRY(fault::at("source.memory.arm"));
  if (!dump_) TS_TRY(start_dump());
  peer::Request request;
  request.mutable_arm();
  TS_TRY_ASSIGN(peer::Reply reply, call(request, kCallLimit));
  TS_LOG_INFO("mig={} phase=memory at the gate: engine_start_ms={} prepare_ms={}", id(),
              reply.at_gate().engine_start_ms(), reply.at_gate().prepare_ms());
  return {};
}

ArmControl SourceMove::arm_control() {
  ArmControl control;
  control.start = [this] {
    if (arming_.exchange(true)) return;
    notice_begins();
    arm_thread_ = Thread("arm", [this] {
      arm_outcome_ = arm();
      armed_ = true;
    });
  };
  control.is_ready = [this]() -> Result<bool> {
    if (!armed_) return false;
    TS_TRY(arm_outcome_);
    return true;
  };
  return control;
}

Result<> SourceMove::wait_armed() {
  arm_control().start();
  arm_thread_.join();
  return arm_outcome_;
}

Result<> SourceMove::start_dump() {
  const auto& container = planned_.survey.container;
  TS_TRY_ASSIGN(engine::OciBundle bundle, engine::load_oci_bundle(container.bundle));
  TS_TRY_ASSIGN(criu::DumpOptions options, engine::dump_options(bundle, container.pid));
  options.criu = services_.settings.criu;
  options.images_dir = directory_ + "/images";
  options.tar = std::filesystem::path(services_.settings.runtime).replace_filename("transship-tar");
  options.preload = services_.settings.criu_preload;
  options.lock_network = false;                   // shut_
  options.skip_in_flight = request_.new_address;  // they end like all others
  if (live_) {
    options.memory = services_.settings.memory_method.method;
    options.kdat = services_.settings.memory_method.kdat;
  }
  options.work_dir = directory_ + "/work";
  // The destination's runtime can prepare itself with this one alone, before the others are there.
  TS_TRY_ASSIGN(std::string descriptors, engine::descriptors_json(container.pid));
  TS_TRY(sys::write_file_atomic(options.images_dir + "/descriptors.json", descriptors));
  TS_TRY(images_->send_now("descriptors.json"));
  TS_TRY_ASSIGN(dump_, criu::DumpSession::start(options, cancel_, Deadline::in(kCallLimit)));
  return {};
}

void SourceMove::fill_memory(local::Summary& s) const {
  s.set_resident_bytes(planned_.survey.tasks.memory_bytes);
  s.set_dump_method(
      std::string(criu::method_name(live_ ? services_.settings.memory_method.method : criu::MemoryMethod::kFull)));
  for (auto& name : criu::used_shortcuts(dump_times_.shortcuts)) s.add_dump_shortcuts(std::move(name));
  bool rounds = memory_stats_.rounds > 0;
  s.set_mode(follow_ ? "post-copy" : rounds ? "pre-copy" : "stop-copy");
  s.set_rounds(memory_stats_.rounds);
  s.set_predicted_gap_ms(static_cast<uint64_t>(rounds ? memory_stats_.predicted_gap_ms
                                                      : static_cast<double>(planned_.result.prediction.gap_ms)));
  s.set_pages_sent(memory_stats_.pages - memory_stats_.zero_pages);
  s.set_pages_zero(memory_stats_.zero_pages);
  s.set_bytes_last_round(memory_stats_.bytes_last_round);
  s.set_compression(std::string(memory::to_text(memory_stats_.compression)));
  s.set_throttle_percent(memory_stats_.throttle_percent);
}

// ---- after the switch

Result<std::unique_ptr<PeerSession>> SourceMove::connect_again(const Cancel& cancel) {
  TS_TRY_ASSIGN(wire::PeerTarget target, services_.peer(request_.peer));
  return PeerSession::connect(services_.identity, target, services_.settings.node, Deadline::in(kConnectLimit), cancel);
}

// While the container still runs: the link is not to be made in the gap.
Result<> SourceMove::prepare_to_follow() {
  TS_TRY_ASSIGN(sys::Cgroup cgroup, sys::Cgroup::of_process(planned_.survey.container.pid));
  TS_TRY_ASSIGN(Cancel never, Cancel::create());
  memory::PageSenderOptions options;
  options.compression = request_.memory.compress;
  options.link_bytes_per_second = link_bits_per_second() / 8;
  PagePusher::Hooks hooks;
  hooks.connect = [this, never]() -> Result<std::unique_ptr<PeerSession>> {
    TS_TRY_ASSIGN(auto session, connect_again(never));
    TS_TRY(confirm_commit(*session));
    return session;
  };
  PushLanes lanes{id(), lane_token_, request_.peer, planned_.max_bits_per_second};
  hooks.add_lanes = [this, lanes, never](PushLink& link) { return add_push_lanes(link, lanes, services_, never); };
  hooks.progress = [this](const PushProgress& p) {
    reporter_.progress(p.filled_pages * memory::kPageBytes, p.expected_pages * memory::kPageBytes);
  };
  pusher_ = std::make_unique<PagePusher>(id(), cgroup, options, std::move(hooks));
  PushLink link;
  TS_TRY_ASSIGN(link.session, connect_again(cancel_));
  TS_TRY(add_push_lanes(link, lanes, services_, cancel_));
  push_link_ = std::move(link);
  return {};
}

Result<> SourceMove::confirm_commit(PeerSession& session) {
  if (confirmed_) return {};
  TS_TRY_ASSIGN(Cancel never, Cancel::create());
  peer::Request request;
  request.mutable_commit()->set_move_id(id());
  TS_TRY_ASSIGN(peer::Reply reply, session.call(request, Deadline::in(kConnectLimit), never));
  running_ = reply.running();
  confirmed_ = true;
  return {};
}

// The container runs on the destination and its memory is here. Nothing may end before the destination has all of it.
Result<> SourceMove::follow() {
  fault::pass("source.follow");
  if (!follow_) return {};
  if (!confirmed_) pusher_->stop();  // the next link begins with it
  TS_TRY_CTX(pusher_->run(kFollowPatience, leaving_),
             fmt::format("{} runs on {}, and a part of its memory is still on {}: the frozen processes here are kept",
                         container(), request_.peer, services_.settings.node));
  fault::pass("source.follow.filled");
  followed_ = pusher_->sent();
  end_source_tasks();
  return {};
}

}  // namespace transship::migrate
