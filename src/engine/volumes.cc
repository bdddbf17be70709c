#include "engine/volumes.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "base/text.h"
#include "sys/arrival_mark.h"

namespace transship::engine {
namespace {

namespace fs = std::filesystem;

// Not those that are there by an earlier move.
std::vector<std::string> bind_sources(const Container& c) {
  std::vector<std::string> all;
  for (const auto& m : c.mounts)
    if (m.type == "bind" && m.copy_here == CopyHere::kNone) all.push_back(m.source);
  return all;
}

// What is there belongs to the host, or to its kernel.
bool is_hosts_own(const std::string& path) {
  constexpr std::array<std::string_view, 8> kOwn = {"/proc", "/sys", "/dev", "/run",
                                                    "/boot", "/etc", "/usr", "/var/run"};
  return path == "/" || std::ranges::any_of(kOwn, [&](std::string_view own) {
           return path == own || (path.starts_with(own) && path[own.size()] == '/');
         });
}

}  // namespace

std::vector<Conflict> bind_conflicts(const Container& wanted) {
  std::vector<Conflict> rows;
  for (const auto& path : bind_sources(wanted)) {
    std::error_code error;
    if (is_hosts_own(path)) {
      rows.push_back({"volumes", fmt::format("{} is a part of the host itself", path),
                      "what a container needs of its host cannot move: create it without that mount"});
    } else if (fs::exists(path, error) && !fs::is_directory(path, error)) {
      rows.push_back({"volumes", fmt::format("{} is a file here", path), "move it away there, or mount a directory"});
    } else if (fs::exists(path, error) && !fs::is_empty(path, error)) {
      rows.push_back({"volumes", fmt::format("the directory {} of this host is not empty", path),
                      fmt::format("what is in it would be lost: move {} away there", path)});
    }
  }
  return rows;
}

Result<> make_bind_directories(const Container& wanted) {
  for (const auto& path : bind_sources(wanted))
    TS_TRY_CTX(sys::make_marked_dirs(path, wanted.arrival), "directory of a bind mount");
  return {};
}

Result<> remove_bind_directories(const Container& wanted) {
  Result<> outcome;
  for (const auto& path : bind_sources(wanted)) {
    // Two may be below one that was made.
    auto removed = sys::remove_marked_dirs(path, wanted.arrival);
    if (!removed) outcome = std::move(removed);
  }
  return outcome;
}

void keep_bind_directories(const Container& wanted) {
  for (const auto& path : bind_sources(wanted)) sys::unmark_dirs(path, wanted.arrival);
}

}  // namespace transship::engine
