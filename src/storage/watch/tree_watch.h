// Finds what changed in a directory tree by being told, not by walking over it (fanotify).
//
// Works on ext4, XFS, btrfs, tmpfs and F2FS, where the kernel takes such a mark; create() says why not elsewhere, and
// the caller walks (scan_tree). Files are known by their handles, so that a change is seen by whatever name it is made:
// outside of the tree, removed since, or of a file that never had one.
//
// Not told by the kernel, and therefore to be looked at, and sent, by the caller's word (`look_too`,
// RoundOptions::always_look):
// - writes through shared mappings. Neither contents nor, always, times. The last unmapping or close is told (told()).
// - writes by asynchronous I/O (io_submit) to files that stay open, and by loop devices on them.
// Files that are open for writing (inodes_open_for_writing) or mapped so (shared_writable_inodes) are all of these.
// Not told, and not seen: inode flags (chattr), which no round carries; mounts in other mount namespaces than the
// caller's.
//
// NB: never for the upper directory of an overlay, nor for a tree with one in it. The kernel gives the events of a
// write through an overlay to the overlay's file, and opens the one in the upper directory as a file without any
// (FMODE_NONOTIFY): the tree is on ext4 or XFS, create() takes it, and the writes are missed. Such a tree is walked.
//
// Mounts inside the tree are not followed: what is mounted there is looked at each time, as scan_tree sees it. Number
// of blocks (Node::blocks) may be an older one: file systems change it when they write to disk.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_set>

#include "base/cancel.h"
#include "base/mutex.h"
#include "base/result.h"
#include "base/thread.h"
#include "storage/scan.h"
#include "storage/watch/event_queue.h"
#include "storage/watch/mounts_below.h"
#include "storage/watch/scan_update.h"

namespace transship::storage {

struct WatchOptions {
  // Tests make events get lost by these.
  bool unlimited_queue = true;
  milliseconds gather = milliseconds(10);
  // Names that changed and are remembered; with more, the next scan walks.
  size_t max_names = 1U << 20;
};

struct WatchStats {
  uint64_t events = 0;     // of the whole file system, since create()
  uint64_t looked_at = 0;  // in the last scan: names whose attributes were read
  std::string walked;      // why the last scan read the whole tree; empty when it did not
};

// scan() from one thread at a time. Its own thread (`tree-watch`) empties the kernel's queue until the destructor.
class TreeWatch {
 public:
  // `root_fd` is borrowed for the life of the object. kKernelFeatureMissing: changes here cannot be followed.
  static Result<std::unique_ptr<TreeWatch>> create(int root_fd, const WatchOptions& options = {});
  ~TreeWatch();
  TreeWatch(const TreeWatch&) = delete;
  TreeWatch& operator=(const TreeWatch&) = delete;

  // What scan_tree() would find: from `previous` and what changed since, when `previous` is from the last call of
  // scan() here, else (null, too) by a walk. All that was done before the call is in it.
  Result<Scan> scan(const Scan* previous, const std::unordered_set<uint64_t>& look_too, const Cancel& cancel);
  // Inodes of files of which the last scan had an event: they are to be sent whatever their attributes say. A page that
  // is mapped and dirty already is written without another time, and the last unmapping or close is all that is told.
  const std::unordered_set<uint64_t>& told() const { return told_; }
  const WatchStats& stats() const { return stats_; }

 private:
  TreeWatch(int root_fd, const WatchOptions& options, EventQueue queue, MountsBelow mounts, Cancel stop);
  void run();
  Result<bool> read_once() REQUIRES(mutex_);
  Result<> read_all() REQUIRES(mutex_);
  void note(const FileEvent& event) REQUIRES(mutex_);
  void note_name(FileId dir, std::string_view name) REQUIRES(mutex_);
  void lost(std::string why) REQUIRES(mutex_);
  Result<TreeChanges> take(const Scan*& previous) REQUIRES(mutex_);
  void follow(std::span<const FileId> ids);
  void forget_all_but(const Scan& scan);

  const int root_fd_;
  const WatchOptions options_;
  const Cancel stop_;
  MountsBelow mounts_;
  WatchStats stats_;
  std::unordered_set<uint64_t> told_;
  uint64_t last_scan_ = 0;  // its number; 0: none that is good

  // Held while events are read, too, which does not wait: what was read is then also noted.
  Mutex mutex_;
  EventQueue queue_ GUARDED_BY(mutex_);
  FileIdSet followed_ GUARDED_BY(mutex_);  // what is in the tree, or was since the last scan
  TreeChanges changes_ GUARDED_BY(mutex_);
  size_t changed_names_ GUARDED_BY(mutex_) = 0;
  uint64_t events_ GUARDED_BY(mutex_) = 0;
  std::string lost_ GUARDED_BY(mutex_);  // why changes_ is not all
  Thread thread_;
};

}  // namespace transship::storage
