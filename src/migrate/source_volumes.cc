#include "migrate/source_volumes.h"

#include <filesystem>

#include "base/fault.h"
#include "base/log.h"
#include "base/wall_clock.h"
#include "migrate/elapsed.h"
#include "migrate/lane_writer.h"
#include "storage/scan_diff.h"
#include "storage/tree_delta.h"
#include "storage/watch/open_files.h"
#include "storage/written_ranges.h"

namespace transship::migrate {
namespace {

constexpr milliseconds kConnectLimit{10'000};
constexpr milliseconds kRoundLimit{24 * 60 * 60'000};
constexpr milliseconds kLastLimit{60'000};
// Of one large file, which the destination reads for it.
constexpr milliseconds kHashLimit{60 * 60'000};
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

SourceVolumes::SourceVolumes(VolumeCopies copies, VolumesLink link, const engine::Container& container, Cancel cancel,
                             Cancel stop)
    : cancel_(std::move(cancel)),
      stop_(std::move(stop)),
      copies_(std::move(copies)),
      link_(std::move(link)),
      engine_(container.engine),
      container_(container.name) {}

SourceVolumes::~SourceVolumes() { pause(); }

Result<std::unique_ptr<SourceVolumes>> SourceVolumes::open(Services& services, const VolumesLink& link,
                                                           const engine::Container& container,
                                                           const std::vector<std::string>& generations,
                                                           const Cancel& cancel) {
  TS_TRY_ASSIGN(Cancel stop, Cancel::create());
  std::unique_ptr<SourceVolumes> v(new SourceVolumes(VolumeCopies(*services.store, copies_directory(services.settings)),
                                                     link, container, cancel, std::move(stop)));
  for (const auto& m : container.mounts) {
    if (!engine::is_volume(m)) continue;
    auto number = v->volumes_.size();
    auto there = number < generations.size() ? generations[number] : "";
    TS_TRY_CTX(v->add(m, there), fmt::format("volume on {}", m.destination));
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
  for (auto& volume : v->volumes_)
    if (volume.builds_on) TS_TRY_CTX(v->build_on(volume), fmt::format("volume on {}", volume.mount.destination));
  return v;
}

Result<> SourceVolumes::add(const engine::Mount& mount, const std::string& generation) {
  TS_TRY_ASSIGN(Fd root, open_file(mount.source, O_RDONLY | O_DIRECTORY));
  auto& v = volumes_.emplace_back();
  v.number = static_cast<uint32_t>(volumes_.size() - 1);
  v.mount = mount;
  v.root = std::move(root);
  auto watch = storage::TreeWatch::create(v.root.get());
  if (watch)
    v.watch = std::move(*watch);
  else
    TS_LOG_INFO("mig={} volume on {} is walked over each time: {}", link_.move_id, mount.destination,
                watch.error().message());
  v.builds_on = !generation.empty() && generation == mount.copy_generation;
  if (!v.builds_on) return {};
  TS_TRY_ASSIGN(auto copy, copies_.at(mount.source));
  if (!copy) return fail(Errc::kInternal, "it is not known any more since when its copy on {} is the same", link_.peer);
  TS_TRY_ASSIGN(v.seen, copies_.tree(*copy));
  return {};
}

// Large files that changed are compared with what the copy has.
Result<> SourceVolumes::build_on(Volume& v) {
  TS_TRY_ASSIGN(auto now, storage::scan_tree(v.root.get(), cancel_));
  auto diff = storage::diff_scans(&*v.seen, now, {});
  for (uint32_t i = 0; i < diff.send.size(); ++i) {
    const auto& node = now.nodes()[i];
    if (diff.send[i] && S_ISREG(node.mode) && node.nlink == 1 && node.size >= storage::kLargeFile)
      TS_TRY(ask_hashes(v, now.path(i)));
  }
  return {};
}

Result<> SourceVolumes::ask_hashes(Volume& v, const std::string& path) {
  storage::KnownFile file;
  while (true) {
    peer::Request request;
    auto& ask = *request.mutable_volume_hashes();
    ask.set_move_id(link_.move_id);
    ask.set_volume(v.number);
    ask.set_path(path);
    ask.set_first(file.hashes.blocks.size());
    auto reply = session_->call(request, Deadline::in(kHashLimit), cancel_);
    // It is sent whole.
    if (!reply && reply.error().code() == Errc::kNotFound) return {};
    if (!reply && reply.error().code() == Errc::kNoSpace) return {};
    TS_TRY(reply);
    const auto& some = reply->volume_hashes();
    if (some.size() > static_cast<uint64_t>(INT64_MAX) || some.blocks_size() % 2 != 0)
      return fail(Errc::kPeerProtocol, "hashes of a file that is none");
    file.hashes.size = static_cast<int64_t>(some.size());
    for (int i = 0; i < some.blocks_size(); i += 2) file.hashes.blocks.push_back({some.blocks(i), some.blocks(i + 1)});
    if (some.blocks_size() == 0 || file.hashes.blocks.size() >= storage::block_count(file.hashes.size)) break;
  }
  // Where it does not fit it is not known.
  (void)v.known.put(path, std::move(file));
  return {};
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
  applied.set_move_id(link_.move_id);
  applied.set_volume(v.number);
  applied.set_round(v.round);
  applied.set_last(still != nullptr);
  ++v.round;
  TS_TRY(session_->call(request, Deadline::in(still != nullptr ? kLastLimit : kRoundLimit), cancel_));
  return {};
}

Result<> SourceVolumes::round_of_all(const std::vector<pid_t>* still) {
  for (auto& v : volumes_)
    if (still != nullptr || v.mount.writable || v.round == 0)
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

// What an engine removes with its container (an anonymous volume) is not left.
Result<> SourceVolumes::left() {
  Result<> outcome;
  for (auto& v : volumes_) {
    v.watch.reset();
    std::error_code error;
    VolumeCopy copy{.path = v.mount.source,
                    .id = v.mount.copy_id,
                    .generation = link_.move_id,
                    .standing = CopyStanding::kLeft,
                    .engine = engine_,
                    .volume = v.mount.volume,
                    .container = container_,
                    .peer = link_.peer,
                    .since_ms = unix_ms_now()};
    bool there = std::filesystem::is_directory(v.mount.source, error);
    auto kept = there ? copies_.keep(copy, v.seen ? &*v.seen : nullptr) : copies_.forget(v.mount.source);
    if (!kept && outcome) outcome = std::move(kept);
  }
  return outcome;
}

}  // namespace transship::migrate
