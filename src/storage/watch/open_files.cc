#include "storage/watch/open_files.h"

#include <dirent.h>
#include <sys/stat.h>

#include <memory>

#include "base/fd.h"

namespace transship::storage {
namespace {

Result<> collect(pid_t pid, std::unordered_set<uint64_t>& inodes) {
  auto path = fmt::format("/proc/{}/fd", pid);
  std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(path.c_str()), ::closedir);
  if (!dir && (errno == ENOENT || errno == ESRCH)) return {};  // ended meanwhile
  if (!dir) return fail_errno(errno, "read {}", path);
  while (dirent* e = ::readdir(dir.get())) {
    struct stat st = {};
    // The permissions of the link say what the descriptor is open for.
    if (e->d_name[0] == '.' || ::fstatat(::dirfd(dir.get()), e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if ((st.st_mode & S_IWUSR) == 0 || ::fstatat(::dirfd(dir.get()), e->d_name, &st, 0) != 0) continue;
    if (S_ISREG(st.st_mode)) inodes.insert(st.st_ino);
  }
  return {};
}

}  // namespace

Result<std::unordered_set<uint64_t>> inodes_open_for_writing(const std::vector<pid_t>& pids) {
  std::unordered_set<uint64_t> inodes;
  for (pid_t pid : pids) TS_TRY(collect(pid, inodes));
  return inodes;
}

}  // namespace transship::storage
