// What a move would cost: bytes, total time, gap. Pure arithmetic; the formula and its constants are in docs/plan.md.
#pragma once
#include <cstdint>

#include "plan/converge.h"

namespace transship::plan {

struct PredictInput {
  uint64_t memory_bytes = 0;  // private memory + shared memory + tmpfs contents
  uint64_t eager_bytes = 0;   // of these, what is in CRIU's images in any case: shared memory, tmpfs contents
  uint64_t handed_bytes = 0;  // of these, what CRIU takes over on the destination as it is: anonymous shared memory
  // How memory travels; kInvalid: all of it in CRIU's images.
  MemoryMode mode = MemoryMode::kInvalid;
  uint64_t rootfs_bytes = 0;
  uint64_t rootfs_files = 0;
  uint64_t volume_bytes = 0;  // of volumes of which the destination has no copy yet
  uint64_t volume_files = 0;
  uint64_t image_bytes = 0;  // missing on the destination
  uint32_t processes = 1;
  uint32_t threads = 1;
  uint32_t connections = 0;
  double rtt_ms = 0;
  double bits_per_second = 0;  // 0: unknown, 1 Gbit/s is taken
};

struct Prediction {
  uint64_t bytes_memory = 0;  // on the wire, before compression
  uint64_t bytes_images = 0;  // CRIU's images: in a tmpfs of each host while it moves
  uint64_t bytes_rootfs = 0;
  uint64_t bytes_volumes = 0;
  uint64_t bytes_image = 0;
  uint64_t bytes_total = 0;
  uint64_t total_ms = 0;
  uint64_t gap_ms = 0;
  // Parts of the gap.
  uint64_t freeze_ms = 0;
  uint64_t dump_ms = 0;
  uint64_t transfer_ms = 0;
  uint64_t restore_ms = 0;
  uint64_t commit_ms = 0;
};

Prediction predict(const PredictInput& input);

// Kept free on a host beside everything reserved or predicted. Also used by the reservation book.
inline constexpr uint64_t kMemoryMargin = 256ULL << 20;   // the daemon, CRIU, the engine, page tables
inline constexpr uint64_t kStorageMargin = 512ULL << 20;  // logs and databases that the host itself writes
inline constexpr uint64_t kInodeMargin = 10'000;

}  // namespace transship::plan
