#include "base/fd.h"

namespace transship {

Result<Fd> open_at(int dir, const std::string& path, int flags, mode_t mode) {
  int fd = retry_eintr([&] { return ::openat(dir, path.c_str(), flags | O_CLOEXEC, mode); });
  if (fd < 0) return fail_errno(errno, "open {}", path);
  return Fd(fd);
}

Result<size_t> read_some(int fd, std::span<std::byte> buffer) {
  ssize_t n = retry_eintr([&] { return ::read(fd, buffer.data(), buffer.size()); });
  if (n < 0) return fail_errno(errno, "read");
  return static_cast<size_t>(n);
}

Result<> read_exact(int fd, std::span<std::byte> buffer) {
  while (!buffer.empty()) {
    TS_TRY_ASSIGN(size_t n, read_some(fd, buffer));
    if (n == 0) return fail(Errc::kPeerProtocol, "end of data with {} bytes still expected", buffer.size());
    buffer = buffer.subspan(n);
  }
  return {};
}

Result<> write_all(int fd, std::span<const std::byte> data) {
  while (!data.empty()) {
    ssize_t n = retry_eintr([&] { return ::write(fd, data.data(), data.size()); });
    if (n < 0) return fail_errno(errno, "write {} bytes", data.size());
    data = data.subspan(static_cast<size_t>(n));
  }
  return {};
}

Result<> write_all(int fd, std::string_view text) { return write_all(fd, std::as_bytes(std::span(text))); }

Result<Pipe> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno(errno, "pipe");
  return Pipe{Fd(ends[0]), Fd(ends[1])};
}

}  // namespace transship
