// What arrives on the lanes of a destination's move: pages, CRIU's images, rounds of the root file system, an image's
// layers.
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/log.h"
#include "base/text.h"
#include "migrate/channels.h"
#include "migrate/convert.h"
#include "migrate/destination.h"
#include "storage/tree_delta.h"

namespace transship::migrate {
namespace {

// Without another chunk, while the engine's lock is held.
constexpr milliseconds kChunkStall{4000};
constexpr milliseconds kCancelCheck{100};
// Of one kind, each with a descriptor: a process with its threads and its open things makes a dozen.
constexpr size_t kMaxFiles = 16'384;
// Half of what is free stays free for everybody else.
constexpr uint64_t kInodesKept = 2;

Result<> write_all_at(int fd, std::span<const std::byte> data, uint64_t offset) {
  while (!data.empty()) {
    ssize_t n = retry_eintr([&] { return ::pwrite(fd, data.data(), data.size(), static_cast<off_t>(offset)); });
    if (n < 0) return fail_errno(errno, "write");
    data = data.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return {};
}

}  // namespace

Result<> DestinationMove::receive(const wire::ChunkHeader& chunk, std::span<const std::byte> data) {
  auto r = receive_chunk(chunk, data);
  MutexLock lock(mu_);
  // Volumes come over lanes of their own, and are asked about by themselves.
  bool own = static_cast<Channel>(chunk.kind) == Channel::kVolume;
  if (r)
    chunks_ += own ? 0 : 1;
  else if (!chunk_failed_)
    chunk_failed_ = r.error();
  chunk_.notify_all();
  return r;
}

// Little is on its way when the source does not wait for it itself.
Result<> DestinationMove::await_chunks(uint64_t count) {
  MutexLock lock(mu_);
  uint64_t seen = chunks_;
  auto deadline = Deadline::in(kChunkStall);
  while (chunks_ < count) {
    TS_TRY(cancel_.check());
    if (chunk_failed_) return std::unexpected(*chunk_failed_);
    if (deadline.passed())
      return fail(Errc::kTimeout, "{} of the last {} chunks had not arrived on {} after {} ms without one",
                  count - chunks_, count, services_.settings.node, kChunkStall.count());
    (void)chunk_.wait_until(mu_, std::min(deadline.at(), Clock::now() + kCancelCheck));
    if (chunks_ > seen) deadline = Deadline::in(kChunkStall);
    seen = chunks_;
  }
  return {};
}

Result<> DestinationMove::receive_chunk(const wire::ChunkHeader& chunk, std::span<const std::byte> data) {
  TS_TRY(cancel_.check());
  std::string name(chunk.name);
  switch (static_cast<Channel>(chunk.kind)) {
    case Channel::kPages:
    case Channel::kStalePages: return receive_pages(chunk.kind, data);
    case Channel::kCriuImage: return receive_image(name, chunk.offset, data);
    case Channel::kVolume: return receive_volume(name, chunk.offset, data);
    case Channel::kRootfs: return receive_rootfs(name, chunk.offset, data);
    case Channel::kImageLayer: return receive_layer(name, chunk.offset, data);
    case Channel::kInvalid: break;
  }
  return fail(Errc::kPeerProtocol, "chunk of an unknown channel {}", chunk.kind);
}

Result<> DestinationMove::write_file(const std::string& dir, const std::string& name, uint64_t offset,
                                     std::span<const std::byte> data, Files which) {
  std::shared_ptr<Fd> fd;
  {
    MutexLock lock(mu_);
    if (state_ == State::kAborted) return fail(Errc::kCancelled, "the move was ended on the destination");
    if (which == Files::kImages && images_closed_)
      return fail(Errc::kPeerProtocol, "\"{}\" came after the restore had begun", name);
    auto& files = which == Files::kImages ? images_ : layers_;
    if (files.size() >= kMaxFiles && !files.contains(name))
      return fail(Errc::kPeerProtocol, "more than {} files were sent", kMaxFiles);
    Image& file = files[name];
    if (!file.fd) {
      TS_TRY_ASSIGN(Fd opened, open_file(dir + "/" + name, O_WRONLY | O_CREAT | O_NOFOLLOW, 0600));
      file.fd = std::make_shared<Fd>(std::move(opened));
    }
    file.bytes += data.size();
    fd = file.fd;
    ++writing_;
  }
  auto written = write_all_at(fd->get(), data, offset);
  {
    MutexLock lock(mu_);
    --writing_;
    written_.notify_all();
  }
  if (written) return {};
  return std::unexpected(std::move(written).error().context(
      fmt::format("write {} of {}/{} on {}", format_bytes(data.size()), dir, name, services_.settings.node)));
}

Result<> DestinationMove::await_writers() {
  auto deadline = Deadline::in(kChunkStall);
  while (writing_ > 0) {
    TS_TRY(cancel_.check());
    if (deadline.passed()) return fail(Errc::kTimeout, "a lane is still writing on {}", services_.settings.node);
    (void)written_.wait_until(mu_, std::min(deadline.at(), Clock::now() + kCancelCheck));
  }
  return {};
}

Result<> DestinationMove::receive_image(const std::string& name, uint64_t offset, std::span<const std::byte> data) {
  if (offset + data.size() > images_limit_)
    return fail(Errc::kNoSpace, "{} was reserved for CRIU's images on {}, and \"{}\" goes beyond it",
                format_bytes(images_limit_), services_.settings.node, name);
  {
    MutexLock lock(mu_);
    if (state_ != State::kStaged && state_ != State::kStarting)
      return fail(Errc::kPeerProtocol, "a memory image came before the container was prepared");
  }
  return write_file(directory_ + "/images", name, offset, data, Files::kImages);
}

Result<> DestinationMove::receive_pages(uint8_t kind, std::span<const std::byte> frame) {
  if (!memory_) return fail(Errc::kPeerProtocol, "pages came without a reservation for them");
  renew();
  return static_cast<Channel>(kind) == Channel::kPages ? memory_->receive(frame) : memory_->receive_stale(frame);
}

Result<> DestinationMove::receive_layer(const std::string& name, uint64_t offset, std::span<const std::byte> data) {
  if ((layers_received_ += data.size()) > storage_limit_ || offset + data.size() > storage_limit_)
    return fail(Errc::kNoSpace, "{} was reserved for the image on {}, and more came", format_bytes(storage_limit_),
                services_.settings.node);
  TS_TRY(expect("an image layer", {State::kReserved}));
  renew();
  TS_TRY(sys::make_dirs(layers_dir_));
  return write_file(layers_dir_, name, offset, data, Files::kLayers);
}

// All rounds and the image together: what the second one replaces is not known to be gone.
uint64_t DestinationMove::rootfs_room() const {
  return storage_limit_ - std::min<uint64_t>(storage_limit_, layers_received_ + rootfs_written_);
}

Result<> DestinationMove::apply_rootfs(storage::Reader& stream) {
  const auto& dir = staged_->rootfs_kind == "overlay" ? staged_->upper_dir : staged_->rootfs;
  TS_TRY_ASSIGN(Fd root, open_file(dir, O_RDONLY | O_DIRECTORY));
  storage::ApplyLimits limits;
  TS_TRY_ASSIGN(sys::Space space, sys::space_of(dir));
  if (space.free_inodes > 0) limits.max_entries = space.free_inodes / kInodesKept;
  {
    MutexLock lock(mu_);
    limits.max_bytes = rootfs_room();
  }
  storage::ApplyStats stats;
  auto applied = storage::apply_round(root.get(), stream, limits, cancel_, &stats);
  MutexLock lock(mu_);
  rootfs_written_ += stats.data_bytes;
  return applied;
}

Result<> DestinationMove::receive_volume(const std::string& name, uint64_t offset, std::span<const std::byte> data) {
  TS_TRY(expect("a round of a volume", {State::kStaged, State::kStarting}));
  renew();
  return volumes_->receive(name, offset, data);
}

Result<> DestinationMove::receive_rootfs(const std::string& name, uint64_t offset, std::span<const std::byte> data) {
  TS_TRY(expect("a root file system round", {State::kStaged, State::kStarting}));
  renew();
  return rounds_.receive(name, offset, data);
}

}  // namespace transship::migrate
