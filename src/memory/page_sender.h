// Sends pages: reads them, leaves out what is zero, packs the others into batches, compresses those on several CPUs and
// hands the frames on.
#pragma once
#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/cancel.h"
#include "memory/compression.h"
#include "memory/page.h"

namespace transship::memory {

// Fills `buffer` with the content of the ranges, one after the other (it is exactly as long as they are), and returns
// how many pages from the front on it could read. Fewer than all: the next page is not there any more, or cannot be
// read. Only what makes sending impossible is an error.
using ReadPages = std::function<Result<size_t>(std::span<const PageRange> ranges, std::span<std::byte> buffer)>;

// Takes one encoded batch (page_batch.h); blocks while the lanes are full. Whatever vector it leaves in `frame` is used
// for the next one, so it should put a used one there: fresh memory is many times slower. Called by several workers at
// once. Must return soon after the move was cancelled. An error ends the sender.
using SendFrame = std::function<Result<>(std::vector<std::byte>& frame)>;

inline constexpr unsigned kMaxPageWorkers = 8;

struct PageSenderOptions {
  CompressionPolicy compression = CompressionPolicy::kAuto;
  int zstd_level = 1;                // memory of each worker's compressor: 0.6 MiB at level 1, 6 at 9, 10 at 19
  unsigned workers = 0;              // kMaxPageWorkers at most; 0: one for each CPU
  double link_bytes_per_second = 0;  // a first idea, for choosing a compressor; 0: none
  milliseconds stall{60'000};        // add() fails when no batch was done for so long
};

// Pages that were asked for and could not be read.
struct SkippedPages {
  SpaceId space;
  PageRange range;
  bool operator==(const SkippedPages&) const = default;
};

struct SentStats {
  uint64_t pages = 0;                            // read, zero ones included
  uint64_t zero_pages = 0;                       // of these
  uint64_t skipped_pages = 0;                    // could not be read
  uint64_t batches = 0;                          // sent
  uint64_t bytes_in = 0;                         // content of pages that are not zero
  uint64_t bytes_out = 0;                        // frames
  std::chrono::nanoseconds elapsed{0};           // from the first add() on
  std::chrono::nanoseconds waited{0};            // for the lanes, all workers together
  Compression compression = Compression::kNone;  // what was chosen last
  // Where the skipped ones are, neighbours in one entry; the first kMaxSkippedEntries.
  std::vector<SkippedPages> skipped{};
};
inline constexpr size_t kMaxSkippedEntries = 4096;

// One thread calls this; the workers are its own. Batches arrive in no particular order, so within a round no page may
// be added twice. Memory: (2 * workers + 1) batches of 0.6 MiB that are being filled or wait, and for each worker a
// frame and buffers of 1.2 MiB and its compressor. That is 25 MiB with 8 workers and zstd at level 1, however much is
// sent.
//
// After an error of `send`, or a cancel, every call fails with it; there is nothing to do but to destroy the sender. An
// error of `read` ends only that add(): what was read before it is sent.
class PageSender {
 public:
  PageSender(SendFrame send, const PageSenderOptions& options, Cancel cancel);
  // What was not sent is abandoned. Joins: waits for calls of `send` that are under way.
  ~PageSender();
  PageSender(const PageSender&) = delete;
  PageSender& operator=(const PageSender&) = delete;

  // Reads the pages with `read` before it returns; sends them sooner or later. Ranges need no order among themselves,
  // but ascending ones make better batches. Waits while all batches are on their way. kInvalidArgument for a range that
  // is empty, not of whole pages, or ends behind kMaxPageEnd.
  Result<> add(SpaceId space, std::span<const PageRange> ranges, const ReadPages& read);
  // Returns when `send` has taken everything; the lanes may still be busy (LaneSender::flush()). The next add() begins
  // a new round.
  Result<SentStats> finish_round(Deadline deadline);
  // The round so far, without `skipped`. Any thread.
  SentStats progress() const;
  // What compression is chosen by; for logs. Any thread.
  CompressionSituation situation() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// All of one page's bytes are zero. `page` has kPageBytes.
bool is_zero_page(const std::byte* page);

}  // namespace transship::memory
