#include "sys/mount_users.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/text.h"
#include "sys/file.h"
#include "sys/proc_text.h"

namespace transship::sys {
namespace {

namespace fs = std::filesystem;

// What is mounted where a path leads to, and where in its file system that is.
struct Place {
  std::string path;
  std::string device;
  std::string root;  // within the file system
};

bool is_below(std::string_view path, std::string_view top) {
  return top == "/" || path == top || (path.starts_with(top) && path[top.size()] == '/');
}

std::string joined(const std::string& root, std::string_view rest) {
  if (rest.empty()) return root;
  return (root == "/" ? "" : root) + std::string(rest);
}

Result<Place> place_of(const std::string& path, const std::vector<MountEntry>& mounts) {
  std::error_code error;
  auto real = fs::canonical(path, error).string();
  if (error) return fail(Errc::kNotFound, "look for {}: {}", path, error.message());
  const MountEntry* best = nullptr;
  for (const auto& m : mounts)
    if (is_below(real, m.point) && (best == nullptr || m.point.size() >= best->point.size())) best = &m;
  if (best == nullptr) return fail(Errc::kNotFound, "nothing is mounted where {} is", path);
  auto rest = best->point == "/" ? std::string_view(real) : std::string_view(real).substr(best->point.size());
  if (rest == "/") rest = {};
  return Place{path, best->device, joined(best->root, rest)};
}

std::vector<pid_t> all_pids() {
  std::vector<pid_t> pids;
  std::error_code error;
  for (fs::directory_iterator it("/proc", error), end; !error && it != end; it.increment(error))
    if (auto pid = parse_u64(it->path().filename().string(), "pid"); pid) pids.push_back(static_cast<pid_t>(*pid));
  return pids;
}

}  // namespace

std::string mount_namespace_of(pid_t pid) {
  std::error_code error;
  auto target = fs::read_symlink(fmt::format("/proc/{}/ns/mnt", pid), error);
  return error ? "" : target.string();
}

Result<std::vector<MountUser>> mount_users(const std::vector<std::string>& paths, const std::vector<pid_t>& own) {
  std::vector<MountUser> users;
  if (paths.empty()) return users;
  TS_TRY_ASSIGN(auto text, read_file("/proc/self/mountinfo"));
  auto mounts = parse_mountinfo(text);
  std::vector<Place> places;
  for (const auto& path : paths) {
    TS_TRY_ASSIGN(auto place, place_of(path, mounts));
    places.push_back(std::move(place));
  }
  std::set<std::string> seen = {mount_namespace_of(::getpid())};
  for (pid_t pid : own) seen.insert(mount_namespace_of(pid));
  for (pid_t pid : all_pids()) {
    auto ns = mount_namespace_of(pid);
    if (ns.empty() || seen.contains(ns)) continue;
    // Another process of it may still be there when this one has ended.
    auto theirs = read_file(fmt::format("/proc/{}/mountinfo", pid));
    if (!theirs || theirs->empty()) continue;
    seen.insert(ns);
    auto entries = parse_mountinfo(*theirs);
    for (const auto& place : places) {
      bool has = std::ranges::any_of(
          entries, [&](const MountEntry& m) { return m.device == place.device && is_below(m.root, place.root); });
      if (!has) continue;
      auto name = read_file(fmt::format("/proc/{}/comm", pid));
      users.push_back({place.path, pid, name ? std::string(trim(*name)) : ""});
    }
  }
  return users;
}

}  // namespace transship::sys
