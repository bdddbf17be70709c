// Reads pages of other processes, whether they run or stand still.
#pragma once
#include <cstdint>
#include <vector>

#include "base/cancel.h"
#include "memory/track/page_runs.h"

namespace transship::memory {

struct ReadStats {
  uint64_t pages = 0;           // delivered
  std::vector<PageRange> gone;  // of no use: unmapped meanwhile, or nobody may read them (guard pages)
};

// One thread. The buffer is kept from one call to the next: memory that was never touched costs twenty times the copy.
class PageReader {
 public:
  PageReader();
  // All of `runs`, in their order, in blocks of kBlockPages. A process that ends meanwhile: the rest of its pages is
  // `gone`. Pages without PROT_READ are read like the others. Errors: kCancelled, the sink's own, or kRefused when we
  // may not read the process at all.
  Result<ReadStats> read(const PageRuns& runs, const PageBlockSink& sink, const Cancel& cancel);

 private:
  struct Cursor;
  Result<> fill(Cursor& cursor, ReadStats& stats);
  bool read_one(pid_t pid, uint64_t address);
  std::vector<std::byte> buffer_;
  std::vector<PageRange> filled_;
  size_t filled_pages_ = 0;
};

}  // namespace transship::memory
