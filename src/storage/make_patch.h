// Compares a large file with what the other side has of it, and puts what is different into the stream.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "storage/archive.h"
#include "storage/block_hashes.h"

namespace transship::storage {

// For one file. The data of a patch is gathered before its header is written, which has the ranges in it: each byte is
// read once, and its hash is that of what is sent.
class PatchMaker {
 public:
  struct Stats {
    uint64_t entries = 0;
    uint64_t data_bytes = 0;
    uint64_t read_bytes = 0;
  };
  // `entry` has path, attributes and size. `parts`: what may be different apart from what shows in the size and in the
  // holes; null: everything may.
  PatchMaker(int fd, const Entry& entry, const std::vector<Extent>* parts, FileHashes base, ArchiveWriter& out,
             const Cancel& cancel);
  // One entry or more. The hashes are those of what the other side has then.
  Result<FileHashes> run();
  const Stats& stats() const { return stats_; }

 private:
  void mark_blocks_to_read(const std::vector<Extent>* parts, int64_t base_size);
  void mark(const Extent& part);
  Extent in_block(size_t block) const;
  Result<> read_run(size_t first, size_t last);
  void blank_holes(size_t first, std::span<std::byte> bytes);
  Result<> compare(size_t block, std::span<const std::byte> bytes);
  Result<> add_block(const Extent& block, std::span<const std::byte> bytes);
  Result<> add_range(const PatchRange& range, std::span<const std::byte> bytes);
  Result<> flush();

  int fd_;
  Entry entry_;
  const int64_t size_;
  FileHashes hashes_;
  ArchiveWriter& out_;
  const Cancel& cancel_;
  std::vector<Extent> extents_;
  size_t extent_ = 0;  // the first that does not end before the block that is worked on
  std::vector<bool> read_;
  std::vector<std::byte> buffer_;
  std::vector<std::byte> data_;  // of entry_.patch.ranges
  Stats stats_;
};

}  // namespace transship::storage
