#include "plan/predict.h"

#include <algorithm>
#include <cmath>

namespace transship::plan {

namespace {

// Measured on a 2-core development machine with CRIU 4.2.1 (docs/plan.md has the table and how to repeat it). They are
// meant to be a little too slow rather than too fast.
constexpr double kDefaultBitsPerSecond = 1e9;                  // when nobody has measured: the commonest link
constexpr double kLinkEfficiency = 0.94;                       // of TCP and TLS over Ethernet frames of 1500 bytes
constexpr double kDumpBytesPerSecond = 2.0 * (1ULL << 30);     // CRIU copies pages to tmpfs
constexpr double kLookBytesPerSecond = 45.0 * (1ULL << 30);    // walks page tables, copies nothing
constexpr double kLastRoundBytes = 2.0 * (1ULL << 20);         // dirty after the last round, and the images
constexpr double kRestoreBytesPerSecond = 1.5 * (1ULL << 30);  // reads them back, page faults included
constexpr double kFreezeMs = 5;                                // cgroup freezer (0.1 to 0.8 ms) and the hold on packets
constexpr double kDumpMs = 50;                                 // CRIU's fixed part: seizing, parasite, mounts
constexpr double kRestoreMs = 75;                              // forking, namespaces, sockets, up to the gate
constexpr double kCommitMs = 20;                               // durable decision, answer, cutover hook, thaw
constexpr double kPerProcessMs = 4;                            // parasite in and out, one fork
constexpr double kPerThreadMs = 0.3;
constexpr double kPerConnectionMs = 0.3;  // repair on, queues, repair off
// Last pages and ready, commit. Where much is sent while it stands still its end is waited for by itself.
constexpr double kRoundTripsInGap = 2;
constexpr double kRoundTripsWithoutRounds = 3;
constexpr double kImageOverhead = 1.02;  // CRIU's other images beside the pages
constexpr double kImageBaseBytes = 512.0 * 1024;

// Outside the gap.
constexpr double kPlanAndReserveMs = 300;
constexpr double kPrepareMs = 900;                              // the engine creates the container, CRIU starts
constexpr double kCleanUpMs = 700;                              // the source's engine notices and removes it
constexpr double kPerFileMs = 0.15;                             // of the root file system's difference
constexpr double kUnpackBytesPerSecond = 150.0 * (1ULL << 20);  // layers into the engine's storage
constexpr double kRoundTripsOutside = 12;

uint64_t whole_ms(double ms) { return static_cast<uint64_t>(std::llround(std::max(ms, 0.0))); }

double transfer_ms(double bytes, double bytes_per_second) { return bytes / bytes_per_second * 1000; }

}  // namespace

namespace {

// What is moved while the container stands still, of its memory.
double frozen_bytes(const PredictInput& in) {
  switch (in.mode) {
    case MemoryMode::kAuto:
    case MemoryMode::kPreCopy: return kLastRoundBytes;
    case MemoryMode::kPostCopy: return static_cast<double>(in.eager_bytes) + kImageBaseBytes;
    case MemoryMode::kStopCopy:
    case MemoryMode::kInvalid: break;
  }
  return static_cast<double>(in.memory_bytes) * kImageOverhead + kImageBaseBytes;
}

}  // namespace

Prediction predict(const PredictInput& in) {
  Prediction p;
  double rate = (in.bits_per_second > 0 ? in.bits_per_second : kDefaultBitsPerSecond) / 8 * kLinkEfficiency;
  bool live = in.mode != MemoryMode::kInvalid;
  double memory = static_cast<double>(in.memory_bytes);
  double eager = live ? static_cast<double>(in.eager_bytes) : memory;
  double lazy = memory - eager;
  double copied_back = live ? eager - static_cast<double>(in.handed_bytes) : eager;
  p.bytes_memory = static_cast<uint64_t>(memory * kImageOverhead + kImageBaseBytes);
  p.bytes_images = static_cast<uint64_t>(eager * kImageOverhead + kImageBaseBytes);
  p.bytes_rootfs = in.rootfs_bytes;
  p.bytes_volumes = in.volume_bytes;
  p.bytes_image = in.image_bytes;
  p.bytes_total = p.bytes_memory + p.bytes_rootfs + p.bytes_volumes + p.bytes_image;

  double tasks = kPerProcessMs * in.processes + kPerThreadMs * in.threads + kPerConnectionMs * in.connections;
  p.freeze_ms = whole_ms(kFreezeMs);
  p.dump_ms =
      whole_ms(kDumpMs + tasks + transfer_ms(eager, kDumpBytesPerSecond) + transfer_ms(lazy, kLookBytesPerSecond));
  p.transfer_ms = whole_ms(transfer_ms(frozen_bytes(in), rate));
  p.restore_ms = whole_ms(kRestoreMs + tasks + transfer_ms(copied_back, kRestoreBytesPerSecond));
  bool rounds = in.mode == MemoryMode::kPreCopy || in.mode == MemoryMode::kAuto;
  p.commit_ms = whole_ms(kCommitMs + (rounds ? kRoundTripsInGap : kRoundTripsWithoutRounds) * in.rtt_ms);
  p.gap_ms = p.freeze_ms + p.dump_ms + p.transfer_ms + p.restore_ms + p.commit_ms;

  double image = in.image_bytes == 0 ? 0
                                     : transfer_ms(static_cast<double>(in.image_bytes), rate) +
                                           transfer_ms(static_cast<double>(in.image_bytes), kUnpackBytesPerSecond);
  double files = transfer_ms(static_cast<double>(in.rootfs_bytes + in.volume_bytes), rate) +
                 kPerFileMs * static_cast<double>(in.rootfs_files + in.volume_files);
  double outside = live ? std::max(0.0, transfer_ms(memory, rate) - static_cast<double>(p.transfer_ms)) : 0;
  p.total_ms = p.gap_ms + whole_ms(outside) +
               whole_ms(image + files + kPlanAndReserveMs + kPrepareMs + kCleanUpMs + kRoundTripsOutside * in.rtt_ms);
  return p;
}

}  // namespace transship::plan
