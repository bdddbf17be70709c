// Which blocks of large files may have been written since the last look, so that the last round of a volume need not
// read whole files (docs/design/0011-volumes.md). No file is read for it and nothing is mounted.
//
// Three things together tell it: the kernel's events of pages that become dirty or are dropped, and of direct writes
// (write_events.h); the place of each extent on the disk, compared with the look before (extent_map.h); and the size.
// More may be told than was written, never less: an event stands for 64 KiB at least, the events of files with the same
// inode number on other file systems are told too, and so is what a file system moved by itself.
//
// Why nothing is missed. take() removes an event before it has the kernel write the file's dirty pages out, and the
// caller reads after that. Take a write, and the last time that its page became dirty before it:
//   - That event was removed by this take(): the page is written out (cleaned) afterwards. Either the write was before
//     that, and is what the caller reads; or it found the page clean, and fired an event of its own.
//   - It is still in the map, or came later: the next take() tells it.
//   - It was removed by an earlier take(): that one cleaned the page, so the write cannot have found it dirty.
// A write that is under way changes nothing: the page is locked, or not writable by tasks, while it is cleaned, and the
// event of a direct write comes after its data. Removing is one step: what is written between two events of
// one block is told by the one that is removed, or by the one that stays.
//
// What changes a file without its pages (truncation, holes, zeroed, shifted, cloned and exchanged ranges) is at another
// place after it, or at none. The places are looked at after the events were removed and before the caller reads: a
// change before that is told now, one after it by the next take(). Unless it has been undone by then: a hole, something
// shifted there, read by the caller, and a hole again. But the caller's reading has put it into memory, so undoing it
// drops those pages, and that is an event.
//
// Cost: 0.1 to 0.2 us for each page (or folio) of a followed file that becomes dirty, a lookup for those of others; a
// look without settling 10 us, 0.2 ms when something was written, and some us for each extent on btrfs
// (docs/storage.md).
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "storage/archive.h"
#include "storage/written/extent_map.h"
#include "storage/written/write_events.h"

namespace transship::storage {

// One thread.
class WrittenBlocks {
 public:
  static constexpr uint32_t kBlock = 64U << 10;

  // kKernelFeatureMissing: what is missing; whole files are compared then.
  static Result<std::unique_ptr<WrittenBlocks>> create(const WriteEvents::Options& options = {});

  // A plain file of ext2, ext3, ext4, XFS or btrfs that goes through the page cache.
  bool serves(int fd) const;
  // From here on; what the caller reads afterwards is what the first take() refers to. Once more: nothing happens.
  // Its dirty pages are written out.
  Result<> follow(int fd);
  void forget(dev_t device, ino_t inode);
  // What may be different from the last take(), or from follow(): sorted, merged, cut at the file's size. The caller
  // reads it after that, through the page cache; what was not there any more it reads once more after the next take().
  // Nothing: it is not known, compare everything.
  //
  // `settle`: the file is in use: its dirty pages are written out. In the last round the tasks stand still, all direct
  // writes of theirs have ended, and it is not needed; should the file be used after all, the take() that follows
  // knows nothing.
  Result<std::optional<std::vector<Extent>>> take(int fd, bool settle);

 private:
  using FileId = std::pair<ino_t, dev_t>;  // so that all of one number are neighbours
  struct File {
    bool known = false;  // what is below, and everything since
    uint64_t size = 0;
    std::vector<PlacedExtent> extents;
    std::vector<Extent> written;
    size_t merged = 0;  // of `written`, at the last time they were
  };
  explicit WrittenBlocks(std::unique_ptr<WriteEvents> events);
  Result<> gather();
  void note(File& file, const WriteEvent& event) const;
  Result<bool> look(int fd, File& file, bool settle) const;

  std::unique_ptr<WriteEvents> events_;
  uint64_t largest_folio_;  // in blocks
  uint64_t lost_ = 0;
  std::map<FileId, File> files_;
};

}  // namespace transship::storage
