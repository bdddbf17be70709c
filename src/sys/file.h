// Whole small files, directories, and the space under a path.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/result.h"

namespace transship::sys {

// At most `limit` bytes: a longer file is an error (kCorrupt), so that nobody's file can fill our memory.
Result<std::string> read_file(const std::string& path, size_t limit = 16U << 20);
// Into a temporary file beside it, fsync, rename.
Result<> write_file_atomic(const std::string& path, std::string_view content, mode_t mode = 0600);
// Only when there is nothing of that name yet, and durably: whoever comes second finds what the first one made. 0600.
Result<> write_file_once(const std::string& path, std::string_view content);
// In place, one write: for /proc, /sys and cgroup files.
Result<> write_control(const std::string& path, std::string_view content);
// Parents too; existing is fine.
Result<> make_dirs(const std::string& path, mode_t mode = 0700);
// Not following symbolic links, not leaving the file system it starts on. Absent is fine.
Result<> remove_tree(const std::string& path);
// What is in it, in the same way.
Result<> empty_directory(const std::string& path);

struct Space {
  uint64_t total_bytes = 0;
  uint64_t free_bytes = 0;  // for root
  uint64_t free_inodes = 0;
};
Result<Space> space_of(const std::string& path);
// MemAvailable of /proc/meminfo, in bytes.
Result<uint64_t> memory_available(const std::string& meminfo = "/proc/meminfo");
Result<uint64_t> memory_total(const std::string& meminfo = "/proc/meminfo");

// A tmpfs mounted on a directory of ours; unmounted (lazily) and removed by the destructor.
class TmpfsMount {
 public:
  // `path` is made (0700) and must not be a mount point yet. `size_bytes` is the most it may hold.
  static Result<TmpfsMount> create(const std::string& path, uint64_t size_bytes);
  // One that is there already, of a daemon that has ended. kNotFound: nothing is mounted at `path`.
  static Result<TmpfsMount> adopt(const std::string& path);
  // Leaves it for somebody who adopts it.
  void keep() { path_.clear(); }
  TmpfsMount() = default;
  TmpfsMount(TmpfsMount&& other) noexcept { *this = std::move(other); }
  TmpfsMount& operator=(TmpfsMount&& other) noexcept;
  ~TmpfsMount();
  const std::string& path() const { return path_; }

 private:
  void unmount() noexcept;
  std::string path_;
};

}  // namespace transship::sys
