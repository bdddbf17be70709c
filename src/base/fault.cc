#include "base/fault.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <thread>

#include "base/fd.h"
#include "base/log.h"
#include "base/text.h"

namespace transship::fault {
namespace {

// Set once, before threads.
struct Chosen {
  std::string directory;
  bool logs = false;  // of transship-runtime the engine would take it for the container's output
};
Chosen& chosen() {
  static Chosen chosen;
  return chosen;
}

// What the file says; it is gone then. Empty: there is none, or somebody else was faster.
std::string take(const std::string& path) {
  auto file = open_file(path, O_RDONLY | O_NOFOLLOW);
  if (!file) return {};
  char text[64] = {};
  auto n = retry_eintr([&] { return ::read(file->get(), text, sizeof text - 1); });
  if (n <= 0 || ::unlink(path.c_str()) != 0) return {};
  return std::string(trim(std::string_view(text, static_cast<size_t>(n))));
}

}  // namespace

bool detail::enabled = false;

const std::string& directory() { return chosen().directory; }

Result<> enable(const std::string& directory) {
  struct stat status{};
  if (::lstat(directory.c_str(), &status) != 0) return fail_errno(errno, "fault points: look at {}", directory);
  if (!S_ISDIR(status.st_mode) || status.st_uid != ::geteuid() || (status.st_mode & 077U) != 0)
    return fail(Errc::kRefused, "fault points: {} is not a directory that is this user's alone", directory);
  chosen().directory = directory;
  detail::enabled = true;
  return {};
}

Result<> enable() {
  const char* named = ::secure_getenv(kVariable);
  if (named == nullptr || *named == '\0') return {};
  TS_TRY(enable(named));
  chosen().logs = true;
  return {};
}

Result<> detail::reached(const PointName& point) {
  auto order = take(fmt::format("{}/{}", directory(), point.name));
  if (order.empty()) return {};
  if (chosen().logs) TS_LOG_WARN("fault point {}: {}", point.name, order);
  if (order == "die") (void)::kill(::getpid(), SIGKILL);
  if (order.starts_with("stall "))
    if (auto ms = parse_u64(std::string_view(order).substr(6), "time"); ms)
      std::this_thread::sleep_for(std::chrono::milliseconds(*ms));
  if (order == "fail" && point.can_fail) return fail(Errc::kUnavailable, "fault point {}", point.name);
  return {};
}

}  // namespace transship::fault
