// Which pages of another process were written, or are there at all: /proc/PID/pagemap, by the PAGEMAP_SCAN call where
// the kernel has it (6.7), else entry by entry. Only private memory: pages of files and zero pages are never reported.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "memory/page.h"

namespace transship::memory {

// What is mapped in a range. Of anonymous memory the kernel need not be asked which pages are a file's: it looks at the
// description of every page for that, which takes five times as long as all the rest.
enum class Backing : uint8_t { kAnonymous, kFile };

// Of the address space that the process has when it is opened: of no use after an exec. One thread.
class Pagemap {
 public:
  static Result<Pagemap> open(pid_t thread);

  // All ranges found are appended to `out`. At most about `max_pages` are; then `walked` is less than `end`, and the
  // caller goes on from there. Errors: kNotFound when the process has ended.
  struct Walk {
    uint64_t walked = 0;        // everything below it was looked at
    bool unregistered = false;  // stopped at memory without write-protection; `out` has what was protected before
  };
  // Written since it was last protected (or ever), and protects it in the same step. Needs a userfaultfd.
  Result<Walk> take_written(uint64_t start, uint64_t end, Backing backing, uint64_t max_pages,
                            std::vector<PageRange>& out);
  // The same without protecting.
  Result<Walk> written(uint64_t start, uint64_t end, Backing backing, uint64_t max_pages, std::vector<PageRange>& out);
  // Of private file mappings: protected pages that were dropped since, which leave a mark but count as not written.
  // Pages that are swapped out look the same.
  Result<Walk> dropped(uint64_t start, uint64_t end, uint64_t max_pages, std::vector<PageRange>& out);
  // Protected pages that are there: as far as the protection tells, they are what they were when it was put on.
  Result<Walk> unwritten(uint64_t start, uint64_t end, uint64_t max_pages, std::vector<PageRange>& out);
  // Every page that CRIU would put into an image.
  Result<Walk> populated(uint64_t start, uint64_t end, Backing backing, uint64_t max_pages,
                         std::vector<PageRange>& out);
  // The same entry by entry, for kernels without the call. Zero pages are reported too, guard pages also.
  Result<Walk> populated_by_entries(uint64_t start, uint64_t end, uint64_t max_pages, std::vector<PageRange>& out);
  // Populated, and written since clear_soft_dirty(). Entry by entry.
  Result<Walk> soft_dirty(uint64_t start, uint64_t end, uint64_t max_pages, std::vector<PageRange>& out);

 private:
  struct Filter;
  explicit Pagemap(Fd fd, pid_t thread);
  Result<Walk> scan(const Filter& filter, uint64_t start, uint64_t end, uint64_t max_pages,
                    std::vector<PageRange>& out);
  Result<Walk> by_entries(uint64_t wanted, uint64_t start, uint64_t end, uint64_t max_pages,
                          std::vector<PageRange>& out);
  Fd fd_;
  pid_t thread_ = 0;
  std::vector<uint64_t> regions_;  // of PAGEMAP_SCAN, three words each; zero as far as unused
};

// Resets the soft-dirty bits of all of a process's pages.
Result<> clear_soft_dirty(pid_t thread);

// The kernel has PAGEMAP_SCAN, and a userfaultfd with asynchronous write-protection; else the reason.
Result<> probe_pagemap_scan();
// The kernel has soft-dirty bits that work; else the reason.
Result<> probe_soft_dirty();

}  // namespace transship::memory
