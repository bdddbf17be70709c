// Names below a directory that can never lead out of it: no symbolic link, no mount, no "..", whoever else writes
// there.
#pragma once
#include <sys/stat.h>

#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace transship::storage {

// A directory below `root_fd`; "." is the root itself. `path` is relative and clean (see is_clean_path); longer than
// PATH_MAX is fine. errno ELOOP or ENOTDIR: something on the way is not a directory; EXDEV: a mount.
Result<Fd> open_dir_beneath(int root_fd, std::string_view path, int flags = O_RDONLY);

// Not empty, not absolute, no empty, "." or ".." component, no component over 255 bytes. "." alone is not clean.
bool is_clean_path(std::string_view path);

struct SplitPath {
  std::string_view parent;  // "." when at the top
  std::string_view name;
};
SplitPath split_path(std::string_view path);

// "/proc/self/fd/N/name": for the system calls that have no *at form. Borrow of `dir_fd`.
std::string proc_path(int dir_fd, std::string_view name);

// Removes `name` in `dir_fd` with everything below. Absent is fine. Crosses no mount (kUnavailable, EBUSY or EXDEV).
Result<> remove_beneath(int dir_fd, const std::string& name);

// For messages: bytes that a terminal must not see are escaped, long ones cut.
std::string printable(std::string_view path);

}  // namespace transship::storage
