#include <dirent.h>
#include <linux/mount.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <filesystem>
#include <optional>

#include "base/text.h"
#include "storage/beneath.h"
#include "storage/tree_delta.h"
#include "sys/file.h"

namespace transship::storage {
namespace {

constexpr std::string_view kDeletedMark = " (deleted)";

struct Mapping {
  std::string range;  // "start-end", the name in map_files
  bool writable = false;
  std::string path;
};

// "55d0-55e0 rw-s 00000000 00:2f 1234   /path with blanks"
bool parse_shared(std::string_view line, Mapping& m) {
  size_t space = line.find(' ');
  if (space == std::string_view::npos || line.size() < space + 5 || line[space + 4] != 's') return false;
  size_t path = line.find('/', space + 5);
  if (path == std::string_view::npos) return false;
  m.range = line.substr(0, space);
  m.writable = line[space + 2] == 'w';
  m.path = line.substr(path);
  return true;
}

std::string link_target(const std::string& link) {
  std::string target(PATH_MAX + 64, '\0');
  ssize_t n = ::readlink(link.c_str(), target.data(), target.size());
  target.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return target;
}

// The link knows the real name; the maps line has newlines in it escaped. Both names and the process's root are seen
// from the root of its mount namespace: what is left without the latter is the name in the container.
std::string name_in_container(pid_t pid, const Mapping& m, const std::string& root) {
  auto path = link_target(fmt::format("/proc/{}/map_files/{}", pid, m.range));
  if (path.empty()) path = m.path;
  if (root.size() > 1 && path.starts_with(root + "/")) path.erase(0, root.size());
  return path.erase(0, path.find_first_not_of('/'));
}

dev_t device_of(const std::string& path) {
  struct stat st = {};
  return ::stat(path.c_str(), &st) == 0 ? st.st_dev : 0;
}

// What is left of `path` below `top`, both without a slash in front; nothing when it is not below.
std::optional<std::string> below(const std::string& path, const std::string& top) {
  if (top.empty()) return path;
  if (!path.starts_with(top) || path.size() <= top.size() || path[top.size()] != '/') return std::nullopt;
  return path.substr(top.size() + 1);
}

Result<> collect(pid_t pid, int upper_fd, const std::string& mounted_on, SharedMappings& out) {
  auto maps = sys::read_file(fmt::format("/proc/{}/maps", pid), 256U << 20);
  if (!maps && maps.error().code() == Errc::kNotFound) return {};  // ended meanwhile
  if (!maps) return std::unexpected(std::move(maps).error());
  auto root = link_target(fmt::format("/proc/{}/root", pid));
  dev_t root_device = device_of(fmt::format("/proc/{}/root", pid));
  for (const auto& line : split(*maps, '\n')) {
    Mapping m;
    if (!parse_shared(line, m)) continue;
    auto name_there = below(name_in_container(pid, m, root), mounted_on);
    if (!name_there) continue;
    const auto& path = *name_there;
    struct stat st = {};
    bool found = false;
    if (is_clean_path(path)) {
      auto [parent, name] = split_path(path);
      auto dir = open_dir_beneath(upper_fd, parent, O_PATH);
      found = dir && ::fstatat(dir->get(), std::string(name).c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0;
    }
    if (found && S_ISREG(st.st_mode)) out.inodes.insert(st.st_ino);
    bool ours = m.writable && device_of(fmt::format("/proc/{}/map_files/{}", pid, m.range)) == root_device;
    if (!found && ours && !path.ends_with(kDeletedMark))
      out.unresolved.push_back(fmt::format("{}: {}", pid, printable(path)));
  }
  return {};
}

}  // namespace

// By name and not by the device and inode in the maps file: overlay shows other numbers than its upper directory has.
Result<SharedMappings> shared_writable_inodes(const std::vector<pid_t>& pids, int upper_fd,
                                              const std::string& mounted_on) {
  SharedMappings out;
  auto top = std::filesystem::path(mounted_on).lexically_normal().relative_path().string();
  while (top.ends_with('/')) top.pop_back();
  for (pid_t pid : pids) TS_TRY_CTX(collect(pid, upper_fd, top, out), fmt::format("mappings of process {}", pid));
  return out;
}

// A reconfiguration that changes nothing: the kernel drops what it remembers of the file system's unused names first.
Result<> refresh_overlay(const std::string& mount_path) {
  long fd = ::syscall(SYS_fspick, AT_FDCWD, mount_path.c_str(), FSPICK_CLOEXEC | FSPICK_SYMLINK_NOFOLLOW);
  if (fd < 0) return fail_errno(errno, "find the mount {}", mount_path);
  Fd context(static_cast<int>(fd));
  if (::syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_RECONFIGURE, nullptr, nullptr, 0) != 0)
    return fail_errno(errno, "refresh the overlay at {}", mount_path);
  return {};
}

}  // namespace transship::storage
