#include "migrate/arriving_volumes.h"

#include <unistd.h>

#include "base/log.h"
#include "base/text.h"
#include "base/wall_clock.h"
#include "migrate/channels.h"
#include "storage/tree_delta.h"
#include "sys/file.h"

namespace transship::migrate {
namespace {

// One of so many inodes is left to the host.
constexpr uint64_t kInodesKept = 2;
// Of hashes in one answer: a message has 4 MiB.
constexpr size_t kHashesAtOnce = 128U << 10;
// Where changes cannot be followed. Beside the restore, which takes longer.
constexpr milliseconds kWalkInGap{20};
constexpr size_t kMostHashBytes = 256U << 20;

Result<> sync_disk_of(int fd, const std::string& path) {
  if (::syncfs(fd) != 0) return fail_errno(errno, "write {} to its disk", path);
  return {};
}

}  // namespace

ArrivingVolumes::ArrivingVolumes(VolumeCopies copies, ArrivingOptions options, Cancel cancel)
    : copies_(std::move(copies)), options_(std::move(options)), cancel_(std::move(cancel)) {}

ArrivingVolumes::~ArrivingVolumes() { end(); }

std::unique_ptr<ArrivingVolumes> ArrivingVolumes::adopt(VolumeCopies copies, const engine::Container& wanted,
                                                        const std::vector<engine::StagedVolume>& staged,
                                                        ArrivingOptions options, const Cancel& cancel) {
  std::unique_ptr<ArrivingVolumes> a(new ArrivingVolumes(std::move(copies), std::move(options), cancel));
  a->engine_ = wanted.engine;
  a->container_ = wanted.name;
  for (const auto& s : staged) {
    auto mount = std::ranges::find(wanted.mounts, s.destination, &engine::Mount::destination);
    if (mount == wanted.mounts.end()) continue;
    auto& v = *a->volumes_.emplace_back(std::make_unique<Volume>());
    v.mount = *mount;
    v.path = s.path;
    v.touched = true;  // perhaps
    auto known = a->copies_.at(v.path);
    if (known && *known && (*known)->standing == CopyStanding::kFilling) v.before = std::move(*known);
  }
  return a;
}

Result<std::unique_ptr<ArrivingVolumes>> ArrivingVolumes::create(VolumeCopies copies, const engine::Container& wanted,
                                                                 const std::vector<engine::StagedVolume>& staged,
                                                                 ArrivingOptions options, const Cancel& cancel) {
  auto a = adopt(std::move(copies), wanted, staged, std::move(options), cancel);
  for (auto& each : a->volumes_) {
    auto& v = *each;
    v.touched = false;
    TS_TRY_ASSIGN(v.root, open_file(v.path, O_RDONLY | O_DIRECTORY));
    if (v.mount.copy_here != engine::CopyHere::kNone) TS_TRY_CTX(a->take_over(v), v.path);
    auto watch = storage::TreeWatch::create(v.root.get());
    if (watch)
      v.watch = std::move(*watch);
    else
      TS_LOG_INFO("mig={} {} is walked over: {}", a->options_.move_id, v.path, watch.error().message());
    v.rounds = std::make_unique<RootfsRounds>(
        cancel, [arriving = a.get(), &v](storage::Reader& stream) { return arriving->apply(v, stream); });
  }
  return a;
}

// Written down first: what is half one state and half another must not be taken for either by whoever comes next.
Result<> ArrivingVolumes::take_over(Volume& v) {
  TS_TRY_ASSIGN(v.before, copies_.at(v.path));
  if (!v.before) return fail(Errc::kAlreadyExists, "it is there, and no move has left it there");
  auto filling = *v.before;
  filling.standing = CopyStanding::kFilling;
  filling.since_ms = unix_ms_now();
  TS_TRY(copies_.keep(filling, nullptr));
  if (v.mount.copy_here == engine::CopyHere::kSame) return {};
  v.touched = true;
  return sys::empty_directory(v.path);
}

void ArrivingVolumes::describe(peer::Prepared& prepared) const {
  for (const auto& v : volumes_)
    prepared.add_volume_generations(v->mount.copy_here == engine::CopyHere::kSame ? v->mount.copy_generation : "");
}

Result<ArrivingVolumes::Volume*> ArrivingVolumes::volume(uint64_t number) {
  if (number >= volumes_.size() || !volumes_[number]->rounds)
    return fail(Errc::kPeerProtocol, "it has no volume {}", number);
  return volumes_[number].get();
}

Result<> ArrivingVolumes::receive(const std::string& stream, uint64_t offset, std::span<const std::byte> data) {
  auto parts = split(stream, '-');
  if (parts.size() != 4) return fail(Errc::kPeerProtocol, "\"{}\" is no round of a volume", stream);
  TS_TRY_ASSIGN(uint64_t number, parse_u64(parts[1], "number of a volume"));
  TS_TRY_ASSIGN(auto* v, volume(number));
  return v->rounds->receive(stream, offset, data);
}

// What the source has reserved for all of them together is the limit, and what their disk has. Much of what a round
// brings takes the place of something, so the limit holds for each round, and for what is there after it: a peer that
// does not keep to it gets twice as much for a moment, and no further round.
Result<> ArrivingVolumes::apply(Volume& v, storage::Reader& stream) {
  v.touched = true;
  storage::ApplyLimits limits;
  TS_TRY_ASSIGN(sys::Space space, sys::space_of(v.path));
  if (space.free_inodes > 0) limits.max_entries = std::max<uint64_t>(1024, space.free_inodes / kInodesKept);
  limits.max_bytes = options_.limit;
  storage::ApplyStats stats;
  TS_TRY(storage::apply_round(v.root.get(), stream, limits, cancel_, &stats));
  return check_use(stats.data_bytes);
}

// In a short round, as the last one is, there is no time for a look, and no need.
Result<> ArrivingVolumes::check_use(uint64_t written) {
  {
    MutexLock lock(mu_);
    since_look_ += written;
    if (since_look_ < options_.limit / 8) return {};
    since_look_ = 0;
  }
  uint64_t used = 0;
  for (const auto& v : volumes_) {
    TS_TRY_ASSIGN(auto scan, storage::scan_tree(v->root.get(), cancel_));
    used += scan.disk_bytes();
  }
  if (used <= options_.limit) return {};
  return fail(Errc::kNoSpace, "{} were reserved for its volumes on {}, and they take {}", format_bytes(options_.limit),
              options_.node, format_bytes(used));
}

// The last round's way to the disk is gone beside the restore: settle().
Result<> ArrivingVolumes::wait_applied(const peer::VolumeAppliedRequest& request) {
  TS_TRY_ASSIGN(auto* v, volume(request.volume()));
  auto applied = v->rounds->wait_applied(volume_stream(request.volume(), request.round()));
  if (applied && !request.last()) applied = sync_disk_of(v->root.get(), v->path);
  if (!applied)
    return std::unexpected(std::move(applied).error().context(
        fmt::format("volume on {} ({} on {})", v->mount.destination, v->path, options_.node)));
  return {};
}

Result<peer::VolumeHashes> ArrivingVolumes::hashes(const peer::VolumeHashesRequest& request) {
  MutexLock lock(hash_mu_);
  TS_TRY_ASSIGN(auto* v, volume(request.volume()));
  if (v->mount.copy_here != engine::CopyHere::kSame || v->touched)
    return fail(Errc::kPeerProtocol, "what volume {} has here is not known", request.volume());
  auto name = fmt::format("{}/{}", request.volume(), request.path());
  if (hashed_ != name) {
    hashed_.clear();
    TS_TRY_ASSIGN(hashes_, storage::hash_file(v->root.get(), request.path(), kMostHashBytes, cancel_));
    hashed_ = name;
  }
  peer::VolumeHashes reply;
  reply.set_size(static_cast<uint64_t>(hashes_.size));
  auto all = std::span<const storage::BlockHash>(hashes_.blocks);
  auto some = all.subspan(std::min<size_t>(request.first(), all.size()));
  some = some.first(std::min(some.size(), kHashesAtOnce));
  for (const auto& block : some) {
    reply.add_blocks(block.low);
    reply.add_blocks(block.high);
  }
  return reply;
}

Result<storage::Scan> ArrivingVolumes::look(const Volume& v) const {
  if (!v.watch) return storage::scan_tree(v.root.get(), cancel_);
  return v.watch->scan(v.seen ? &*v.seen : nullptr, {}, cancel_);
}

// The long part of what settle() does, while there is time.
void ArrivingVolumes::expect_last() {
  settle_thread_ = Thread("volumes-look", [this] {
    for (auto& v : volumes_) {
      auto begin = Clock::now();
      auto scan = look(*v);
      // It will be walked over again.
      bool late = !v->watch && Clock::now() - begin > kWalkInGap;
      if (late) TS_LOG_INFO("mig={} {} is too large to look at in time", options_.move_id, v->path);
      if (scan && !late) v->seen = std::move(*scan);
    }
  });
}

Result<> ArrivingVolumes::close() {
  for (auto& v : volumes_)
    if (v->rounds) TS_TRY(v->rounds->close());
  settle_thread_.join();
  settle_thread_ = Thread("volumes-settle", [this] { settled_ = settle_all(); });
  return {};
}

Result<> ArrivingVolumes::settle_all() {
  for (auto& v : volumes_) TS_TRY(sync_disk_of(v->root.get(), v->path));
  for (auto& v : volumes_) {
    if (!v->seen) continue;
    auto scan = look(*v);
    v->seen = scan ? std::optional(std::move(*scan)) : std::nullopt;
    if (!scan) TS_LOG_WARN("mig={} look at {}: {}", options_.move_id, v->path, scan.error().message());
  }
  return {};
}

Result<> ArrivingVolumes::settle() {
  settle_thread_.join();
  return settled_;
}

Result<> ArrivingVolumes::arrived() {
  Result<> outcome;
  for (auto& v : volumes_) {
    v->watch.reset();
    if (v->mount.copy_id.empty()) continue;
    VolumeCopy copy;
    copy.path = v->path;
    copy.id = v->mount.copy_id;
    copy.generation = options_.move_id;
    copy.standing = CopyStanding::kInUse;
    copy.engine = engine_;
    copy.volume = v->mount.volume;
    copy.container = container_;
    copy.peer = options_.source;
    copy.since_ms = unix_ms_now();
    auto kept = copies_.keep(copy, v->seen ? &*v->seen : nullptr);
    if (!kept && outcome) outcome = std::move(kept);
    v->seen.reset();
  }
  return outcome;
}

void ArrivingVolumes::end() {
  for (auto& v : volumes_)
    if (v->rounds) v->rounds->end();
  settle_thread_.join();
}

Result<> ArrivingVolumes::undone(Volume& v) {
  if (!v.touched) return copies_.keep(*v.before, nullptr);
  auto rest = *v.before;
  rest.standing = CopyStanding::kFilling;
  rest.since_ms = unix_ms_now();
  TS_TRY_ASSIGN(Fd root, open_file(v.path, O_RDONLY | O_DIRECTORY));
  TS_TRY_ASSIGN(Cancel never, Cancel::create());
  TS_TRY_ASSIGN(auto seen, storage::scan_tree(root.get(), never));
  return copies_.keep(rest, &seen);
}

void ArrivingVolumes::undone() {
  for (auto& v : volumes_) {
    if (!v->before) continue;
    if (auto kept = undone(*v); !kept) TS_LOG_WARN("mig={} {}: {}", options_.move_id, v->path, kept.error().message());
    v->before.reset();
  }
}

}  // namespace transship::migrate
