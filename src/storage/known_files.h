// What the other side has of the large files of a tree, so that what is the same need not be sent.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "storage/block_hashes.h"

namespace transship::storage {

// Which file it is, beyond its number: that is used again.
struct FileIdentity {
  uint64_t inode = 0;
  int64_t birth_ns = 0;
  bool operator==(const FileIdentity&) const = default;
};

struct KnownFile {
  FileHashes hashes;
  // Everything that was written to this file since the hashes were made will be named by WrittenRanges.
  std::optional<FileIdentity> followed = {};
};

// By name and not by inode: a name is what the other side is told to patch, and whatever is there now, the file that it
// was or another one, may be compared with what was there. Kept right by send_round(): each name that it sends or
// deletes is replaced or forgotten here. One thread; movable.
//
// An entry takes 16 bytes for 64 KiB of its file (2.6 MB for 10 GiB). What finds no room is not known: its file is sent
// whole each time.
class KnownFiles {
 public:
  static constexpr size_t kDefaultBytes = 128U << 20;  // half a TiB of files
  explicit KnownFiles(size_t max_bytes = kDefaultBytes) : max_bytes_(max_bytes) {}
  KnownFiles(KnownFiles&&) = default;
  KnownFiles& operator=(KnownFiles&&) = default;

  bool has(std::string_view path) const { return files_.find(path) != files_.end(); }
  // Null when there is none. Valid until something is changed.
  const FileHashes* find(std::string_view path) const;
  bool has_room_for(std::string_view path, int64_t size) const;
  // False, and the name is not known, when there is no room or there are not as many hashes as blocks. Whatever
  // followed the same file under another name does so no more.
  bool put(std::string path, KnownFile file);
  // Out of here, to be changed and put back.
  std::optional<KnownFile> take(std::string_view path);
  // This name only; with everything below it.
  void forget(std::string_view path) { (void)take(path); }
  void forget_tree(std::string_view path);
  // What was written to the file has been asked for, on behalf of none of the names known so far.
  void unfollow(uint64_t inode);
  void clear();

  size_t files() const { return files_.size(); }
  size_t bytes() const { return bytes_; }

  // For a file of ours: all but what is followed, with a checksum. parse(): kCorrupt when it is not as it was written,
  // kNoSpace when it does not fit into `max_bytes`.
  std::string serialize() const;
  static Result<KnownFiles> parse(std::string_view text, size_t max_bytes = kDefaultBytes);

 private:
  static size_t cost(std::string_view path, size_t blocks);
  size_t max_bytes_;
  size_t bytes_ = 0;
  std::map<std::string, KnownFile, std::less<>> files_;
  std::unordered_map<uint64_t, std::string> followers_;  // by inode: the name that is followed
};

}  // namespace transship::storage
