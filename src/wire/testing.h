// For tests only: a stream without TLS, and two ends of a TLS connection over loopback.
#pragma once
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "wire/endpoint.h"
#include "wire/tls.h"

namespace transship::wire::testing {

inline Deadline soon(long ms = 5'000) { return Deadline::in(milliseconds(ms)); }
inline Cancel never() { return Cancel::create().value(); }

// One end of a socket pair.
class PlainStream final : public Stream {
 public:
  explicit PlainStream(Fd fd) : fd_(std::move(fd)) { (void)::fcntl(fd_.get(), F_SETFL, O_NONBLOCK); }
  Result<size_t> read_some(std::span<std::byte> buffer, Deadline deadline, const Cancel& cancel) override {
    while (true) {
      ssize_t n = ::recv(fd_.get(), buffer.data(), buffer.size(), 0);
      if (n >= 0) return static_cast<size_t>(n);
      if (errno != EAGAIN) return fail(Errc::kUnavailable, "read: {}", errno_text(errno));
      TS_TRY(wait_readable(fd_.get(), cancel, deadline, "read"));
    }
  }
  Result<size_t> write_some(std::span<const std::byte> data, Deadline deadline, const Cancel& cancel) override {
    while (true) {
      ssize_t n = ::send(fd_.get(), data.data(), data.size(), MSG_NOSIGNAL);
      if (n >= 0) {
        written_ += static_cast<uint64_t>(n);
        return static_cast<size_t>(n);
      }
      if (errno != EAGAIN) return fail(Errc::kUnavailable, "write: {}", errno_text(errno));
      TS_TRY(wait_writable(fd_.get(), cancel, deadline, "write"));
    }
  }
  Result<bool> readable_now() override {
    pollfd p{fd_.get(), POLLIN, 0};
    return ::poll(&p, 1, 0) > 0;
  }
  void finish() override { (void)::shutdown(fd_.get(), SHUT_WR); }
  void shutdown() noexcept override { (void)::shutdown(fd_.get(), SHUT_RDWR); }
  const std::string& peer() const override { return peer_; }
  uint64_t wire_bytes_written() const override { return written_; }
  int fd() const override { return fd_.get(); }

 private:
  Fd fd_;
  std::string peer_ = "the other end";
  std::atomic<uint64_t> written_ = 0;
};

inline std::pair<Fd, Fd> socket_pair() {
  int ends[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  return {Fd(ends[0]), Fd(ends[1])};
}

inline std::pair<std::unique_ptr<Stream>, std::unique_ptr<Stream>> plain_pair() {
  auto [a, b] = socket_pair();
  return {std::make_unique<PlainStream>(std::move(a)), std::make_unique<PlainStream>(std::move(b))};
}

// A listening TCP socket on loopback.
struct LoopbackServer {
  LoopbackServer() {
    fd.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&a), sizeof a), 0);
    EXPECT_EQ(::listen(fd.get(), 16), 0);
    endpoint = local_endpoint(fd.get()).value();
  }
  Fd accept() const { return Fd(::accept4(fd.get(), nullptr, nullptr, SOCK_CLOEXEC)); }
  Fd fd;
  Endpoint endpoint;
};

inline std::pair<Fd, Fd> tcp_pair() {
  LoopbackServer server;
  Fd client = connect_tcp(server.endpoint, soon(), never()).value();
  return {std::move(client), server.accept()};
}

inline PinLookup pin(const Identity& identity, std::string name) {
  return [print = identity.fingerprint(), name = std::move(name)](const Fingerprint& shown) {
    return shown == print ? std::optional(name) : std::nullopt;
  };
}

struct TlsPair {
  Result<TlsStream> client;
  Result<TlsStream> server;
};

// Both sides of a handshake; whatever comes of it.
inline TlsPair tls_pair(const Identity& client, const Fingerprint& expected, const Identity& server,
                        const PinLookup& pins) {
  auto [a, b] = tcp_pair();
  Result<TlsStream> accepted = fail(Errc::kInternal, "not run");
  std::thread other(
      [&, fd = &b] { accepted = TlsStream::server(std::move(*fd), server, pins, "caller", soon(), never()); });
  auto made = TlsStream::client(std::move(a), client, expected, "callee", soon(), never());
  other.join();
  return {std::move(made), std::move(accepted)};
}

inline std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

}  // namespace transship::wire::testing
