// What a large file looked like, in blocks of 64 KiB: enough to tell which of them are different now.
//
// The hash is XXH3-128. It is not cryptographic: who can make two blocks that have the same one writes the file.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/result.h"

namespace transship::storage {

constexpr int64_t kHashBlock = 64 << 10;
// Smaller files are not worth it: they are sent whole when they change.
constexpr int64_t kLargeFile = 1 << 20;

// The default stands for a block without data. Data that is all zero has another one, of its own.
struct BlockHash {
  uint64_t low = 0;
  uint64_t high = 0;
  bool is_hole() const { return low == 0 && high == 0; }
  bool operator==(const BlockHash&) const = default;
};

// Of kHashBlock bytes; what a block lacks at the end of its file counts as zeros, which is what it would have if the
// file grew.
BlockHash hash_block(std::span<const std::byte> block);
const BlockHash& zero_block_hash();
constexpr size_t block_count(int64_t size) { return static_cast<size_t>((size + kHashBlock - 1) / kHashBlock); }

struct FileHashes {
  int64_t size = 0;
  std::vector<BlockHash> blocks;
  bool operator==(const FileHashes&) const = default;
};

// Makes them from contents that pass by. One thread.
class BlockHasher {
 public:
  explicit BlockHasher(int64_t size);
  // In order, within the size; what is left out is a hole.
  void data(int64_t offset, std::span<const std::byte> bytes);
  FileHashes finish();

 private:
  void close();
  FileHashes hashes_;
  std::vector<std::byte> partial_;
  size_t partial_block_ = 0;
  bool has_partial_ = false;
};

// Of a file that is here already, for a sender that may know something about it. kNotFound: there is no plain file of
// that name below the root with this one name only. (With two names a patch of one would change the other, of which the
// sender need not know.) kNoSpace: its hashes take more than `max_bytes`.
Result<FileHashes> hash_file(int root_fd, const std::string& path, size_t max_bytes, const Cancel& cancel);

}  // namespace transship::storage
