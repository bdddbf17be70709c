#include "criu/log.h"

#include <algorithm>
#include <array>

#include "base/text.h"
#include "sys/file.h"

namespace transship::criu {
namespace {

constexpr size_t kMaxLogBytes = 64U << 20;  // level 4 of a large tree is a few MiB
constexpr size_t kMaxLineBytes = 300;

// Printed on every run of some machines, also of successful ones; never the cause.
constexpr std::array<std::string_view, 4> kHarmless = {
    "rlimit: Can't setup RLIMIT_NOFILE",  // no CAP_SYS_RESOURCE: the inherited limit is used
    "tun: Unable to create tun",          // a feature probe
    "Can't read /proc/sys/net/unix/max_dgram_qlen",
    "Unable to set a pipe size",
};

struct Known {
  std::string_view message;
  std::string_view remedy;
};

constexpr std::array<Known, 21> kKnown = {{
    {"io_uring", "the container uses io_uring, which CRIU cannot save; switch it off in the application"},
    {"anon_inode", "a process holds a kernel object that CRIU cannot save (io_uring, userfaultfd, bpf…); close it"},
    {"of that type", "a process holds a file of a kind that CRIU cannot save (io_uring, device, bpf…); close it"},
    {"External socket is used",
     "a process is connected to a unix socket outside the container (a log or bus socket "
     "mounted into it); close that connection or remove the mount"},
    {"Can't dump half of stream unix connection",
     "a process is connected to a unix socket outside the container; "
     "close that connection or remove the mount"},
    {"Can't lookup mount",
     "a process has a file open that is outside the container's mounts (often its standard input "
     "or output); start the container with pipes or /dev/null instead"},
    {"ghost file", "a deleted file that is still open is too large to travel in the images; close it"},
    {"Can't dump ghost file", "a deleted file that is still open is too large to travel in the images; close it"},
    {"Can't dump that handle", "an inotify or fanotify watch is on a file that cannot be found by name any more"},
    {"fsnotify", "an inotify or fanotify watch cannot be restored; its file is missing or on another file system"},
    {"tty: ", "a process uses a terminal that is not the container's own; start it with `-t`, or without terminal"},
    {"In-flight connection", "a connection was being opened at that moment; try again"},
    {"Connected TCP socket", "an established TCP connection was found but not allowed"},
    {"inet: MPTCP", "the application uses multipath TCP; for Go programs set GODEBUG=multipathtcp=0"},
    {"Can't make VM id", "a process was in the middle of starting another one; try again"},
    {"autodetected external mount", "the container has a mount that its configuration does not name; unmount it"},
    {"No mapping for", "a mount of the container has no counterpart on the destination"},
    {"has bad size",
     "a file that a process has open differs on the destination; the file system changes were not "
     "carried over completely"},
    {"has bad mode", "a file that a process has open has another mode on the destination"},
    {"cpu_fpu", "the destination's CPU saves more or other registers than the source's; move between like CPUs"},
    {"Cannot assign requested address",
     "the address of a connection is not on an interface of the destination's "
     "container network that is up"},
}};

bool harmless(std::string_view line) {
  return std::ranges::any_of(kHarmless, [&](auto h) { return line.find(h) != std::string_view::npos; });
}

}  // namespace

std::vector<std::string> error_lines_in(std::string_view log, size_t limit) {
  std::vector<std::string> found;
  while (!log.empty()) {
    auto end = log.find('\n');
    auto line = log.substr(0, end);
    log.remove_prefix(end == std::string_view::npos ? log.size() : end + 1);
    auto at = line.find("Error (");
    if (at == std::string_view::npos || harmless(line)) continue;
    std::string text(trim(line.substr(at, kMaxLineBytes)));
    if (std::ranges::find(found, text) == found.end()) found.push_back(std::move(text));
  }
  if (found.size() > limit && limit > 0) found.erase(found.begin() + static_cast<long>(limit) - 1, found.end() - 1);
  return found;
}

std::vector<std::string> error_lines(const std::string& log_path, size_t limit) {
  auto text = sys::read_file(log_path, kMaxLogBytes);
  if (!text) return {};
  return error_lines_in(*text, limit);
}

std::string remedy_for(const std::vector<std::string>& lines) {
  // The first line that we know is nearest to the cause.
  for (const auto& line : lines) {
    for (const auto& known : kKnown) {
      if (line.find(known.message) != std::string::npos) return std::string(known.remedy);
    }
  }
  return {};
}

Error error_from_log(Errc code, std::string_view what, const std::string& log_path, std::string_view fallback) {
  auto lines = error_lines(log_path);
  if (lines.empty()) return Error(code, fmt::format("{}: {} (CRIU logged no error in {})", what, fallback, log_path));
  return Error(code, fmt::format("{}: CRIU says: {}", what, join(lines, "; "))).with_remedy(remedy_for(lines));
}

}  // namespace transship::criu
