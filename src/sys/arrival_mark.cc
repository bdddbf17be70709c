#include "sys/arrival_mark.h"

#include <sys/stat.h>
#include <sys/xattr.h>

#include <filesystem>
#include <vector>

#include "sys/file.h"

namespace transship::sys {
namespace {

namespace fs = std::filesystem;

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

std::string marked(const std::string& path, const std::string& move_id) {
  for (const auto& directory : chain_of(path))
    if (!move_id.empty() && mark_of(directory) == move_id) return directory;
  return {};
}

}  // namespace

Result<> make_marked_dirs(const std::string& path, const std::string& move_id) {
  bool first = true;
  for (const auto& directory : chain_of(path)) {
    if (::mkdir(directory.c_str(), 0755) != 0) {
      if (errno == EEXIST) continue;
      return fail_errno(errno, "make directory {}", directory);
    }
    if (std::exchange(first, false) && ::lsetxattr(directory.c_str(), std::string(kArrivalMark).c_str(),
                                                   move_id.data(), move_id.size(), XATTR_CREATE) != 0) {
      int error = errno;
      (void)::rmdir(directory.c_str());
      return std::unexpected(
          Error(Errc::kKernelFeatureMissing, fmt::format("{} is on a file system without trusted extended attributes",
                                                         fs::path(directory).parent_path().string()))
              .with_errno(error)
              .with_remedy(fmt::format("make the directory {} there by hand, empty", path)));
    }
  }
  return {};
}

Result<> remove_marked_dirs(const std::string& path, const std::string& move_id) {
  auto directory = marked(path, move_id);
  return directory.empty() ? Result<>() : remove_tree(directory);
}

void unmark_dirs(const std::string& path, const std::string& move_id) {
  auto directory = marked(path, move_id);
  if (!directory.empty()) (void)::lremovexattr(directory.c_str(), std::string(kArrivalMark).c_str());
}

}  // namespace transship::sys
