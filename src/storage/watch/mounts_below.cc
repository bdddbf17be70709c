#include "storage/watch/mounts_below.h"

#include <poll.h>

#include <array>
#include <climits>

#include "base/text.h"

namespace transship::storage {
namespace {

constexpr size_t kMostMounts = 64U << 20;

Result<std::string> read_from_start(int fd) {
  if (::lseek(fd, 0, SEEK_SET) < 0) return fail_errno(errno, "read the list of mounts");
  std::string text;
  std::array<std::byte, 64U << 10> buffer;
  while (true) {
    TS_TRY_ASSIGN(size_t n, read_some(fd, buffer));
    if (n == 0) return text;
    text.append(reinterpret_cast<const char*>(buffer.data()), n);
    if (text.size() > kMostMounts) return fail(Errc::kNoSpace, "the list of mounts is over {} bytes", kMostMounts);
  }
}

// As in the list of mounts.
std::string escaped(std::string_view path) {
  std::string out;
  for (char c : path) {
    if (c == ' ' || c == '\t' || c == '\n' || c == '\\')
      out += fmt::format("\\{:03o}", static_cast<unsigned char>(c));
    else
      out.push_back(c);
  }
  return out;
}

}  // namespace

Result<MountsBelow> MountsBelow::create(int dir_fd) {
  TS_TRY_ASSIGN(Fd mounts, open_file("/proc/self/mountinfo", O_RDONLY));
  return MountsBelow(dir_fd, std::move(mounts));
}

Result<bool> MountsBelow::changed() {
  std::string path(PATH_MAX, '\0');
  ssize_t n = ::readlink(fmt::format("/proc/self/fd/{}", dir_fd_).c_str(), path.data(), path.size());
  if (n < 0) return fail_errno(errno, "read the path of a directory");
  path.resize(static_cast<size_t>(n));
  pollfd poll = {.fd = mounts_.get(), .events = POLLPRI, .revents = 0};
  // The kernel says once that there were changes anywhere since the last call.
  bool first = path_.empty();
  if (::poll(&poll, 1, 0) == 0 && !first && path == path_) return false;
  TS_TRY_ASSIGN(auto text, read_from_start(mounts_.get()));
  auto prefix = escaped(path == "/" ? "" : path) + "/";
  std::string below;
  for (const auto& line : split(text, '\n')) {
    auto fields = split(line, ' ');
    if (fields.size() < 5 || fields[4].size() <= prefix.size() || !fields[4].starts_with(prefix)) continue;
    below += fmt::format("{} {} {}\n", fields[0], fields[2], fields[4].substr(prefix.size()));
  }
  bool other = first || below != below_;
  path_ = std::move(path);
  below_ = std::move(below);
  return other;
}

}  // namespace transship::storage
