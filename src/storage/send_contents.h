// What a round brings of the contents of plain files: all of it, or of large ones that the other side has what is
// different.
#pragma once
#include <sys/stat.h>

#include <optional>
#include <vector>

#include "storage/archive.h"
#include "storage/tree_delta.h"

namespace transship::storage {

// One thread.
class ContentSender {
 public:
  ContentSender(ArchiveWriter& out, const RoundOptions& options, const Cancel& cancel, RoundStats& stats)
      : out_(out), options_(options), cancel_(cancel), stats_(stats) {}
  // Of the tree. What is on another one (a subvolume) may have the same inode numbers, and is sent whole.
  void set_device(dev_t device) { device_ = device; }

  // Header and contents of the file that `e` describes. More than one entry may come of it; all but one of them are
  // added to the stats. `may_patch` is false when `fd` is not the file that `st` is about.
  Result<> send(int fd, const struct stat& st, bool may_patch, Entry& e);

 private:
  Result<> send_large(int fd, std::optional<FileIdentity> id, Entry& e);
  Result<> send_whole(int fd, Entry& e, BlockHasher* hasher);
  Result<> send_extent(int fd, Extent x, BlockHasher* hasher);
  Result<> send_zeros(Extent x, BlockHasher* hasher);
  Result<std::optional<std::vector<Extent>>> written_parts(int fd, const std::optional<FileIdentity>& id,
                                                           const std::optional<KnownFile>& known);

  ArchiveWriter& out_;
  const RoundOptions& options_;
  const Cancel& cancel_;
  RoundStats& stats_;
  dev_t device_ = 0;
  std::vector<std::byte> buffer_;
};

}  // namespace transship::storage
