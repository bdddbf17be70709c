#include "gate/criu_leftovers.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <thread>

#include "sys/file.h"

namespace transship::gate {
namespace {

constexpr std::string_view kPrefix = ".criu.mntns.";
// Another CRIU mounts its directory within a few milliseconds of making it; younger ones are not touched.
constexpr std::chrono::milliseconds kOldEnough{50};

bool is_process(const std::filesystem::path& path) {
  return std::ranges::all_of(path.filename().string(), [](char c) { return c >= '0' && c <= '9'; });
}

bool mounted_anywhere(const std::string& name) {
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator("/proc", error); !error && it != end(it); it.increment(error)) {
    if (!is_process(it->path())) continue;
    auto mounts = sys::read_file(it->path().string() + "/mountinfo");
    if (mounts && mounts->find(name) != std::string::npos) return true;
  }
  return false;
}

}  // namespace

std::vector<std::string> criu_directories(const std::string& tmp) {
  std::vector<std::string> found;
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(tmp, error); !error && it != end(it); it.increment(error)) {
    if (it->path().filename().string().starts_with(kPrefix)) found.push_back(it->path().string());
  }
  return found;
}

void remove_criu_directories(const std::vector<std::string>& known, const std::string& tmp) {
  auto found = criu_directories(tmp);
  std::erase_if(found, [&](const auto& dir) { return std::ranges::contains(known, dir); });
  if (found.empty()) return;
  std::this_thread::sleep_for(kOldEnough);
  for (const auto& dir : found) {
    // rmdir takes only what is empty.
    if (!mounted_anywhere(std::filesystem::path(dir).filename().string())) (void)::rmdir(dir.c_str());
  }
}

}  // namespace transship::gate
