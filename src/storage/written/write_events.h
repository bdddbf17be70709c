// The kernel's own words of writes to files: BPF programs on four tracepoints, and the map that they gather in.
//
// writeback_dirty_folio  a clean page of a file has become dirty, by write(), through a mapping, or in any other way.
// mm_filemap_delete_from_page_cache
//                        a page has been dropped from memory other than because memory was wanted: what changes a file
//                        without its pages (truncation, holes, shifted ranges, clones) drops those that were there.
// iomap_dio_complete     a direct write has ended: its data is in place. (Its beginning would be too early: the block
//                        could be taken and read before the data is there.)
// iomap_dio_rw_begin     a direct read or write begins: tells which, as the end does not.
//
// The programs are attached to the tracepoints as such (BPF_TRACE_RAW_TP), not to their perf events: of the latter the
// kernel drops what happens on a CPU where anybody is about to use a BPF map. Fields are found by the kernel's BTF.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace transship::storage {

// In blocks of 64 KiB. The layout is that of the map's key.
struct WriteEvent {
  uint64_t inode = 0;  // of any file system: who follows two files of one number gets the events of both
  uint64_t first = 0;
  uint64_t count = 0;  // 0: what a folio may have that begins there (the event does not tell its size)
};

// One thread. Nothing stays in the kernel when it is gone.
class WriteEvents {
 public:
  struct Options {
    uint32_t events = 1U << 18;  // different blocks that are kept until the next drain(): 16 GiB; 30 MB of the kernel's
    uint32_t files = 1U << 16;
    std::string kernel_types = "/sys/kernel/btf/vmlinux";
  };
  // kKernelFeatureMissing says what is missing.
  static Result<std::unique_ptr<WriteEvents>> create(const Options& options);
  ~WriteEvents();
  WriteEvents(const WriteEvents&) = delete;
  WriteEvents& operator=(const WriteEvents&) = delete;

  Result<> follow(uint64_t inode);
  void forget(uint64_t inode);
  // Moves what has been gathered to the end of `out`. An event that comes meanwhile is in it or in the next one's.
  Result<> drain(std::vector<WriteEvent>& out);
  // How many events could not be kept so far.
  Result<uint64_t> lost() const;

 private:
  struct Counters {
    uint64_t added;
    uint64_t lost;
  };
  WriteEvents() = default;
  Result<> make_maps(const Options& options);
  Result<> attach(const Options& options);
  Fd followed_, gathered_, counted_, reads_;
  std::vector<Fd> programs_, links_;
  volatile const Counters* counters_ = nullptr;  // mapped: looking costs no system call
  uint64_t drained_at_ = 0;                      // counters_->added before the last drain
};

}  // namespace transship::storage
