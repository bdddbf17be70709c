#include "migrate/source_volumes.h"

#include "base/fault.h"
#include "base/log.h"
#include "migrate/elapsed.h"
#include "migrate/lane_writer.h"
#include "storage/tree_delta.h"
#include "storage/watch/open_files.h"
#include "storage/written_ranges.h"

namespace transship::migrate {
namespace {

constexpr milliseconds kConnectLimit{10'000};
constexpr milliseconds kRoundLimit{24 * 60 * 60'000};
constexpr milliseconds kLastLimit{60'000};
// Short enough that what a round leaves is little.
constexpr milliseconds kShortRound{500};
constexpr int kMostRounds = 10;
// In the background, between two rounds: often enough for little to be left, seldom enough to cost little.
constexpr milliseconds kLeastPause{200};
constexpr milliseconds kLongestPause{2'000};

}  // namespace

// By the kernel's events where there are any; of every other file nothing is known, and it is compared whole.
class SourceVolumes::Written final : public storage::WrittenRanges {
 public:
  explicit Written(std::unique_ptr<storage::WrittenBlocks> blocks) : blocks_(std::move(blocks)) {}
  Result<> follow(int fd) override { return blocks_->serves(fd) ? blocks_->follow(fd) : Result<>(); }
  Result<std::optional<std::vector<storage::Extent>>> take(int fd, bool settle) override {
    if (!blocks_->serves(fd)) return std::nullopt;
    return blocks_->take(fd, settle);
  }

 private:
  std::unique_ptr<storage::WrittenBlocks> blocks_;
};

SourceVolumes::SourceVolumes(Cancel cancel, Cancel stop) : cancel_(std::move(cancel)), stop_(std::move(stop)) {}

SourceVolumes::~SourceVolumes() { pause(); }

Result<std::unique_ptr<SourceVolumes>> SourceVolumes::open(Services& services, const VolumesLink& link,
                                                           const std::vector<engine::Mount>& mounts,
                                                           const Cancel& cancel) {
  TS_TRY_ASSIGN(Cancel stop, Cancel::create());
  std::unique_ptr<SourceVolumes> v(new SourceVolumes(cancel, std::move(stop)));
  v->move_id_ = link.move_id;
  for (const auto& m : mounts) {
    if (!engine::is_volume(m)) continue;
    auto root = open_file(m.source, O_RDONLY | O_DIRECTORY);
    if (!root) return std::unexpected(std::move(root).error().context(fmt::format("volume on {}", m.destination)));
    auto& volume = v->volumes_.emplace_back();
    volume.number = static_cast<uint32_t>(v->volumes_.size() - 1);
    volume.mount = m;
    volume.root = std::move(*root);
    auto watch = storage::TreeWatch::create(volume.root.get());
    if (watch)
      volume.watch = std::move(*watch);
    else
      TS_LOG_INFO("mig={} volume on {} is walked over each time: {}", link.move_id, m.destination, watch.error().message());
  }
  if (v->volumes_.empty()) return v;
  auto blocks = storage::WrittenBlocks::create();
  if (blocks)
    v->written_ = std::make_unique<Written>(std::move(*blocks));
  else
    TS_LOG_INFO("mig={} volumes: large files are compared whole: {}", link.move_id, blocks.error().message());
  TS_TRY_ASSIGN(wire::PeerTarget target, services.peer(link.peer));
  auto deadline = Deadline::in(kConnectLimit);
  TS_TRY_ASSIGN(v->session_,
                PeerSession::connect(services.identity, target, services.settings.node, deadline, v->cancel_));
  wire::LaneOptions options;
  options.lanes = services.settings.lanes;
  options.max_bytes_per_second = link.max_bits_per_second / 8;
  TS_TRY_ASSIGN(v->lanes_,
                wire::LaneSender::connect(services.identity, target, v->session_->remote(), services.settings.node,
                                          link.move_id, link.lane_token, options, deadline, v->cancel_));
  return v;
}

// `still`: the tasks, which do not run any more.
Result<> SourceVolumes::round(Volume& v, const std::vector<pid_t>* still) {
  storage::RoundOptions options;
  options.must_be_still = options.resend_root = still != nullptr;
  options.known = &v.known;
  options.written = written_.get();
  options.watch = v.watch.get();
  if (still != nullptr) {
    TS_TRY_ASSIGN(auto mapped, storage::shared_writable_inodes(*still, v.root.get(), v.mount.destination));
    options.always_resend = std::move(mapped.inodes);
    TS_TRY_ASSIGN(options.always_look, storage::inodes_open_for_writing(*still));
    options.always_look.insert(options.always_resend.begin(), options.always_resend.end());
  }
  LaneWriter writer(*lanes_, Channel::kVolume, volume_stream(v.number, v.round));
  TS_TRY_ASSIGN(v.seen, storage::send_round(v.root.get(), writer, v.seen ? &*v.seen : nullptr, options, cancel_));
  TS_TRY(writer.finish());
  sent_ += writer.sent();
  peer::Request request;
  auto& applied = *request.mutable_volume_applied();
  applied.set_move_id(move_id_);
  applied.set_volume(v.number);
  applied.set_round(v.round);
  applied.set_last(still != nullptr);
  ++v.round;
  TS_TRY(session_->call(request, Deadline::in(still != nullptr ? kLastLimit : kRoundLimit), cancel_));
  return {};
}

Result<> SourceVolumes::round_of_all(const std::vector<pid_t>* still) {
  for (auto& v : volumes_)
    if (still != nullptr || v.mount.writable || !v.seen)
      TS_TRY_CTX(round(v, still), fmt::format("volume on {}", v.mount.destination));
  ++rounds_;
  return {};
}

Result<> SourceVolumes::copy(const std::function<void(uint64_t sent)>& progress) {
  auto before = milliseconds::max();
  for (int i = 0; i < kMostRounds && !volumes_.empty(); ++i) {
    auto begin = Clock::now();
    TS_TRY(round_of_all(nullptr));
    progress(sent_);
    milliseconds took(ms_since(begin));
    if (took <= kShortRound || took >= before) break;
    before = took;
  }
  return {};
}

void SourceVolumes::follow(uint64_t max_bits_per_second) {
  if (volumes_.empty()) return;
  lanes_->set_rate(max_bits_per_second / 8);
  thread_ = Thread("volumes", [this] { go_on(); });
}

void SourceVolumes::go_on() {
  auto pause = kLeastPause;
  while (sleep_for(pause, stop_)) {
    auto begin = Clock::now();
    outcome_ = round_of_all(nullptr);
    if (!outcome_) return;
    // At most half of the time.
    pause = std::clamp(milliseconds(ms_since(begin)), kLeastPause, kLongestPause);
  }
}

void SourceVolumes::pause() {
  stop_.cancel("paused");
  thread_.join();
}

Result<> SourceVolumes::finish(const std::vector<pid_t>& pids) {
  pause();
  TS_TRY(outcome_);
  if (volumes_.empty()) return {};
  lanes_->set_rate(0);
  return round_of_all(&pids);
}

}  // namespace transship::migrate
