#include "storage/byte_stream.h"

#include <sys/socket.h>

namespace transship::storage {
namespace {
// Enough for a sender at 10 Gbit/s to go on for 3 ms while the disk is busy.
constexpr int kBufferBytes = 4 << 20;
}  // namespace

// A pair of UNIX sockets and not a queue of ours: poll() waits for it together with the cancel signal, the kernel
// bounds it.
Result<std::unique_ptr<StreamPipe>> StreamPipe::create(const Cancel& cancel, milliseconds idle_limit) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0)
    return fail_errno(errno, "socketpair");
  Fd in(ends[0]), out(ends[1]);
  // Without CAP_NET_ADMIN the system's default size stays, which works as well.
  (void)::setsockopt(in.get(), SOL_SOCKET, SO_SNDBUFFORCE, &kBufferBytes, sizeof kBufferBytes);
  return std::unique_ptr<StreamPipe>(new StreamPipe(cancel, idle_limit, std::move(in), std::move(out)));
}

StreamPipe::StreamPipe(const Cancel& cancel, milliseconds idle_limit, Fd in, Fd out)
    : cancel_(cancel), idle_limit_(idle_limit), in_(std::move(in)), out_(std::move(out)) {}

Result<> StreamPipe::write(std::span<const std::byte> data) {
  while (!data.empty()) {
    ssize_t n = retry_eintr([&] { return ::send(in_.get(), data.data(), data.size(), MSG_NOSIGNAL); });
    int e = errno;
    if (n >= 0) {
      data = data.subspan(static_cast<size_t>(n));
    } else if (e == EAGAIN) {
      TS_TRY(wait_writable(in_.get(), cancel_, Deadline::in(idle_limit_),
                           "the receiving end of a file stream takes no data"));
    } else {
      MutexLock lock(mu_);
      if (for_writer_) return std::unexpected(*for_writer_);
      return fail_errno(e, "write to a file stream");
    }
  }
  return {};
}

Result<size_t> StreamPipe::read(std::span<std::byte> buffer) {
  while (true) {
    ssize_t n = retry_eintr([&] { return ::recv(out_.get(), buffer.data(), buffer.size(), 0); });
    int e = errno;
    if (n > 0) return static_cast<size_t>(n);
    if (n == 0) {
      MutexLock lock(mu_);
      if (for_reader_) return std::unexpected(*for_reader_);
      return size_t{0};
    }
    if (e != EAGAIN) return fail_errno(e, "read from a file stream");
    TS_TRY(wait_readable(out_.get(), cancel_, Deadline::in(idle_limit_),
                         "the sending end of a file stream gives no data"));
  }
}

void StreamPipe::finish() { (void)::shutdown(in_.get(), SHUT_WR); }

void StreamPipe::fail_reader(Error error) {
  {
    MutexLock lock(mu_);
    if (!for_reader_) for_reader_ = std::make_unique<Error>(std::move(error));
  }
  finish();
}

void StreamPipe::fail_writer(Error error) {
  {
    MutexLock lock(mu_);
    if (!for_writer_) for_writer_ = std::make_unique<Error>(std::move(error));
  }
  (void)::shutdown(out_.get(), SHUT_RDWR);
}

}  // namespace transship::storage
