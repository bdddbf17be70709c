// Is there room on the destination, and on the source for the images?
#include "base/text.h"
#include "plan/rows.h"

namespace transship::plan {

namespace {

// With more runnable tasks than this per CPU the container would run slower there, and so would its restore.
constexpr double kBusyLoadPerCpu = 1.5;
// Clients of most programs give up or reconnect after this long.
constexpr uint64_t kLongGapMs = 5'000;

void judge_memory(const PlanInput& in, const Prediction& p, Rows& rows) {
  uint64_t tasks = in.tasks.memory_bytes + in.tasks.tmpfs_bytes;
  uint64_t need = tasks + p.bytes_images;
  uint64_t have = in.destination.memory_available;
  std::string found =
      fmt::format("{} needed ({} for its processes, {} for CRIU's images until it runs), {} free", format_bytes(need),
                  format_bytes(tasks), format_bytes(p.bytes_images), format_bytes(have));
  if (need + kMemoryMargin > have)
    rows.block("memory", fmt::format("{}, of which {} stay for the host", found, format_bytes(kMemoryMargin)),
               fmt::format("free memory on {}, or choose another destination", in.peer));
  else
    rows.ok("memory", found);
}

void judge_images(const PlanInput& in, const Prediction& p, Rows& rows) {
  std::string need = format_bytes(p.bytes_images);
  if (p.bytes_images > in.source.images_free)
    rows.block("images-space",
               fmt::format("{} needed here for CRIU's images, {} free", need, format_bytes(in.source.images_free)),
               "free memory on this host (images are kept in memory), or raise the limit in the configuration");
  else if (p.bytes_images > in.destination.images_free)
    rows.block("images-space",
               fmt::format("{} needed on {} for CRIU's images, {} free", need, in.peer,
                           format_bytes(in.destination.images_free)),
               "free memory there (images are kept in memory), or raise the limit in its configuration");
  else
    rows.ok("images-space", fmt::format("{} needed, {} free here, {} there", need, format_bytes(in.source.images_free),
                                        format_bytes(in.destination.images_free)));
}

void judge_storage(const PlanInput& in, const Prediction& p, Rows& rows) {
  uint64_t need = p.bytes_rootfs + p.bytes_image;
  uint64_t have = in.destination.storage_free;
  std::string found = fmt::format("{} needed for files and image, {} free", format_bytes(need), format_bytes(have));
  if (need + kStorageMargin > have)
    rows.block("disk", fmt::format("{}, of which {} stay for the host", found, format_bytes(kStorageMargin)),
               fmt::format("free space in the container storage of {} (podman system prune)", in.peer));
  else
    rows.ok("disk", found);
  // File systems that make inodes as they go (btrfs, zfs) report none.
  uint64_t inodes = in.destination.storage_free_inodes;
  if (inodes == 0) return;
  if (in.rootfs_files + kInodeMargin > inodes)
    rows.block("inodes", fmt::format("{} files to make, {} inodes free", in.rootfs_files, inodes),
               fmt::format("remove files in the container storage of {}", in.peer));
  else
    rows.ok("inodes", fmt::format("{} files to make, {} inodes free", in.rootfs_files, inodes));
}

void judge_load(const PlanInput& in, Rows& rows) {
  const auto& d = in.destination;
  std::string found = fmt::format("load {:.2f} on {} CPUs", d.load_1m, d.cpus);
  if (d.cpus > 0 && d.load_1m / d.cpus > kBusyLoadPerCpu)
    rows.warn("cpu-load", found, "the container would compete for CPU time there; the gap is longer than predicted");
  else
    rows.ok("cpu-load", found);
}

void judge_image(const PlanInput& in, const Prediction& p, Rows& rows) {
  if (in.container.image_digest.empty() && in.container.image.empty())
    rows.ok("image", "none: the bundle's own directory travels");
  else if (in.image_present)
    rows.ok("image", fmt::format("{} is there", in.container.image));
  else
    rows.ok("image", fmt::format("{}: {} to pull, or sent from here when no registry serves it", in.container.image,
                                 format_bytes(p.bytes_image)));
}

void judge_gap(const PlanInput& in, const Prediction& p, Rows& rows) {
  std::string found = fmt::format("{} predicted: freeze {}, dump {}, transfer {}, restore {}, commit {} ms",
                                  format_duration(std::chrono::milliseconds(p.gap_ms)), p.freeze_ms, p.dump_ms,
                                  p.transfer_ms, p.restore_ms, p.commit_ms);
  if (p.gap_ms > kLongGapMs)
    rows.warn("gap", found,
              fmt::format("clients wait that long and some give up; {} of memory over this link is the larger part",
                          format_bytes(in.tasks.anonymous_bytes + in.tasks.shared_bytes)));
  else
    rows.ok("gap", found);
}

}  // namespace

void judge_room(const PlanInput& in, const Prediction& p, Rows& rows) {
  judge_memory(in, p, rows);
  judge_images(in, p, rows);
  judge_storage(in, p, rows);
  judge_load(in, rows);
  judge_image(in, p, rows);
  judge_gap(in, p, rows);
}

}  // namespace transship::plan
