// File descriptors that close themselves, and whole reads and writes.
#pragma once
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"

namespace transship {

// Owns one file descriptor. Move-only; -1 means empty. No implicit int, no bool.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) noexcept : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    reset(std::exchange(other.fd_, -1));
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { reset(); }
  int get() const noexcept { return fd_; }
  bool valid() const noexcept { return fd_ >= 0; }
  [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }
  // Linux closes the descriptor even when close() reports EINTR, so it is never retried.
  void reset(int fd = -1) noexcept {
    if (int old = std::exchange(fd_, fd); old >= 0 && old != fd) ::close(old);
  }

 private:
  int fd_ = -1;
};

template <class F>
auto retry_eintr(F&& call) {
  decltype(call()) r;
  do {
    r = call();
  } while (r == -1 && errno == EINTR);
  return r;
}

// O_CLOEXEC is always added.
Result<Fd> open_at(int dir, const std::string& path, int flags, mode_t mode = 0);
inline Result<Fd> open_file(const std::string& path, int flags, mode_t mode = 0) {
  return open_at(AT_FDCWD, path, flags, mode);
}

// Reads until the buffer is full; end of file before that is kPeerProtocol.
Result<> read_exact(int fd, std::span<std::byte> buffer);
// One read, EINTR retried; 0 at end of file.
Result<size_t> read_some(int fd, std::span<std::byte> buffer);
Result<> write_all(int fd, std::span<const std::byte> data);
Result<> write_all(int fd, std::string_view text);

struct Pipe {
  Fd read;
  Fd write;
};
Result<Pipe> make_pipe();

}  // namespace transship
