#include "sys/arrival_mark.h"

#include <sys/stat.h>
#include <sys/xattr.h>

#include <filesystem>
#include <utility>
#include <vector>

#include "sys/file.h"

namespace transship::sys {
namespace {

namespace fs = std::filesystem;

// Behind the move's id, on a directory that was there.
constexpr std::string_view kWasThere = " was there";

// "/a", "/a/b", "/a/b/c"
std::vector<std::string> chain_of(const std::string& path) {
  std::vector<std::string> chain;
  fs::path at = "/";
  for (const auto& part : fs::path(path).lexically_normal().relative_path()) {
    if (part.empty()) continue;
    at /= part;
    chain.push_back(at.string());
  }
  return chain;
}

std::string mark_of(const std::string& path) {
  std::string value(128, '\0');
  ssize_t n = ::lgetxattr(path.c_str(), std::string(kArrivalMark).c_str(), value.data(), value.size());
  value.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return value;
}

Result<> mark(const std::string& path, const std::string& value) {
  if (::lsetxattr(path.c_str(), std::string(kArrivalMark).c_str(), value.data(), value.size(), 0) == 0) return {};
  return std::unexpected(
      Error(Errc::kKernelFeatureMissing,
            fmt::format("{} cannot be marked as on its way here: {}", path, errno_text(errno)))
          .with_remedy("use a file system with trusted extended attributes there: ext4, XFS, btrfs"));
}

struct Marked {
  std::string path;
  bool was_there = false;
};

// Empty: none of them is.
Marked marked(const std::string& path, const std::string& move_id) {
  for (const auto& directory : chain_of(path)) {
    auto value = mark_of(directory);
    if (value == move_id) return {directory, false};
    if (value == move_id + std::string(kWasThere)) return {directory, true};
  }
  return {};
}

}  // namespace

Result<> make_marked_dirs(const std::string& path, const std::string& move_id) {
  bool made = false;
  for (const auto& directory : chain_of(path)) {
    if (::mkdir(directory.c_str(), 0755) != 0) {
      if (errno == EEXIST) continue;
      return fail_errno(errno, "make directory {}", directory);
    }
    if (std::exchange(made, true)) continue;
    if (auto r = mark(directory, move_id); !r) {
      (void)::rmdir(directory.c_str());
      return r;
    }
  }
  if (made || !marked(path, move_id).path.empty()) return {};
  std::error_code error;
  if (!fs::is_empty(path, error) || error) return fail(Errc::kAlreadyExists, "{} is not empty", path);
  return mark(path, move_id + std::string(kWasThere));
}

Result<> remove_marked_dirs(const std::string& path, const std::string& move_id) {
  auto found = marked(path, move_id);
  if (found.path.empty()) return {};
  if (!found.was_there) return remove_tree(found.path);
  TS_TRY(empty_directory(found.path));
  unmark_dirs(path, move_id);
  return {};
}

void unmark_dirs(const std::string& path, const std::string& move_id) {
  auto found = marked(path, move_id);
  if (!found.path.empty()) (void)::lremovexattr(found.path.c_str(), std::string(kArrivalMark).c_str());
}

}  // namespace transship::sys
