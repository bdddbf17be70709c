#include "storage/beneath.h"

#include <dirent.h>
#include <linux/openat2.h>
#include <sys/syscall.h>

#include <memory>
#include <vector>

namespace transship::storage {
namespace {

constexpr size_t kMaxName = 255;
constexpr size_t kMaxChunk = 4000;  // below PATH_MAX, which is the limit of one call
constexpr int kRaceRetries = 32;    // openat2 gives EAGAIN when a rename happens beside it

Result<Fd> openat2_dir(int base, const std::string& path, int flags) {
  open_how how = {};
  how.flags = static_cast<uint64_t>(flags | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
  for (int i = 0;; ++i) {
    long fd = ::syscall(SYS_openat2, base, path.c_str(), &how, sizeof how);
    if (fd >= 0) return Fd(static_cast<int>(fd));
    int e = errno;
    if (e != EINTR && (e != EAGAIN || i == kRaceRetries)) return fail_errno(e, "open directory {}", printable(path));
  }
}

}  // namespace

Result<Fd> open_dir_beneath(int root_fd, std::string_view path, int flags) {
  Fd held;
  int base = root_fd;
  while (path.size() > kMaxChunk) {
    size_t cut = path.rfind('/', kMaxChunk);
    if (cut == std::string_view::npos || cut == 0)
      return fail(Errc::kInvalidArgument, "open directory {}: a name in it is too long", printable(path));
    TS_TRY_ASSIGN(held, openat2_dir(base, std::string(path.substr(0, cut)), O_PATH));
    base = held.get();
    path.remove_prefix(cut + 1);
  }
  return openat2_dir(base, std::string(path), flags);
}

bool is_clean_path(std::string_view path) {
  if (path.empty()) return false;
  while (true) {
    size_t end = path.find('/');
    std::string_view part = path.substr(0, end);
    if (part.empty() || part == "." || part == ".." || part.size() > kMaxName) return false;
    if (part.find('\0') != std::string_view::npos) return false;
    if (end == std::string_view::npos) return true;
    path.remove_prefix(end + 1);
  }
}

SplitPath split_path(std::string_view path) {
  size_t slash = path.rfind('/');
  if (slash == std::string_view::npos) return {".", path};
  return {path.substr(0, slash), path.substr(slash + 1)};
}

std::string proc_path(int dir_fd, std::string_view name) { return fmt::format("/proc/self/fd/{}/{}", dir_fd, name); }

namespace {

Result<std::vector<std::string>> names_in(Fd dir) {
  std::unique_ptr<DIR, int (*)(DIR*)> d(::fdopendir(dir.get()), ::closedir);
  if (!d) return fail_errno(errno, "read a directory");
  (void)dir.release();
  std::vector<std::string> names;
  errno = 0;
  while (dirent* e = ::readdir(d.get())) {
    std::string_view name = e->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
    errno = 0;
  }
  if (errno != 0) return fail_errno(errno, "read a directory");
  return names;
}

// True when it is gone, false when it is a directory that is not empty.
Result<bool> remove_one(int dir_fd, const std::string& name) {
  if (::unlinkat(dir_fd, name.c_str(), 0) == 0 || errno == ENOENT) return true;
  if (errno != EISDIR && errno != EPERM) return fail_errno(errno, "remove {}", printable(name));
  if (::unlinkat(dir_fd, name.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT) return true;
  if (errno != ENOTEMPTY && errno != EEXIST) return fail_errno(errno, "remove {}", printable(name));
  return false;
}

}  // namespace

// Without recursion and with one descriptor: what is not empty is moved up to the directory it is removed from, under a
// number; so a tree of any depth is removed in any state.
Result<> remove_beneath(int dir_fd, const std::string& name) {
  std::vector<std::string> pending = {name};
  uint64_t serial = 0;
  while (!pending.empty()) {
    std::string current = pending.back();
    TS_TRY_ASSIGN(bool gone, remove_one(dir_fd, current));
    if (gone) {
      pending.pop_back();
      continue;
    }
    TS_TRY_ASSIGN(Fd dir, open_dir_beneath(dir_fd, current));
    int inside = dir.get();
    TS_TRY_ASSIGN(Fd listing, open_dir_beneath(inside, "."));
    TS_TRY_ASSIGN(auto names, names_in(std::move(listing)));
    for (const auto& child : names) {
      TS_TRY_ASSIGN(bool child_gone, remove_one(inside, child));
      if (child_gone) continue;
      auto moved = fmt::format(".transship-removed-{}-{}", ::getpid(), serial++);
      if (::renameat(inside, child.c_str(), dir_fd, moved.c_str()) != 0)
        return fail_errno(errno, "remove {}", printable(child));
      pending.push_back(std::move(moved));
    }
  }
  return {};
}

std::string printable(std::string_view path) {
  constexpr size_t kMost = 200;
  std::string out;
  for (char byte : path.substr(0, kMost)) {
    auto c = static_cast<unsigned char>(byte);
    if (c < 0x20 || c >= 0x7f || c == '\\')
      out += fmt::format("\\x{:02x}", c);
    else
      out.push_back(byte);
  }
  return path.size() > kMost ? out + "…" : out;
}

}  // namespace transship::storage
