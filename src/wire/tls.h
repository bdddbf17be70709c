// TLS 1.3 over TCP: mutual, pinned keys, no certificate authorities.
//
// The peer's certificate must hold the pinned key (a self-signed certificate is just how TLS carries a key), and TLS's
// CertificateVerify proves that the peer has its private half. The check happens inside the handshake: nothing of the
// peer's is read as application data before it has passed.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/fd.h"
#include "wire/identity.h"
#include "wire/stream.h"

struct ssl_st;

namespace transship::wire {

inline constexpr milliseconds kHandshakeLimit{5'000};

// The name of the peer whose key this is; nothing when no peer has it pinned. Must be thread-safe and quick.
using PinLookup = std::function<std::optional<std::string>(const Fingerprint&)>;

class TlsStream final : public Stream {
 public:
  // `tcp` is a connected TCP socket; made non-blocking, with TCP_NODELAY, keepalive and TCP_USER_TIMEOUT. The handshake
  // takes at most kHandshakeLimit. `peer` is for messages ("azure (192.0.2.7:7440)").
  // kUnauthorized: the server has another key than `expected`. NB: in TLS 1.3 the server's refusal of *our* key arrives
  // with the first read: that read then fails with kUnauthorized.
  static Result<TlsStream> client(Fd tcp, const Identity& identity, const Fingerprint& expected, std::string peer,
                                  Deadline deadline, const Cancel& cancel);
  // kUnauthorized: no certificate, or a key that `pins` does not know. peer_name() is what `pins` said.
  static Result<TlsStream> server(Fd tcp, const Identity& identity, const PinLookup& pins, std::string peer,
                                  Deadline deadline, const Cancel& cancel);
  TlsStream(TlsStream&&) noexcept;
  TlsStream& operator=(TlsStream&&) noexcept;
  ~TlsStream() override;

  Result<size_t> read_some(std::span<std::byte> buffer, Deadline deadline, const Cancel& cancel) override;
  Result<size_t> write_some(std::span<const std::byte> data, Deadline deadline, const Cancel& cancel) override;
  Result<bool> readable_now() override;
  void finish() override;
  void shutdown() noexcept override;
  const std::string& peer() const override { return peer_; }
  uint64_t wire_bytes_written() const override;
  int fd() const override { return fd_.get(); }

  // Server: the name that the pin lookup gave. Client: empty.
  const std::string& peer_name() const { return peer_name_; }
  const Fingerprint& peer_fingerprint() const { return *peer_fingerprint_; }
  // "TLS_AES_128_GCM_SHA256"
  std::string cipher() const;

 private:
  friend Result<Fingerprint> probe_fingerprint_of(Fd tcp, const std::string& peer, Deadline deadline,
                                                  const Cancel& cancel);
  struct SslFree {
    void operator()(ssl_st* ssl) const;
  };
  TlsStream(Fd fd, std::unique_ptr<ssl_st, SslFree> ssl, std::string peer)
      : fd_(std::move(fd)), ssl_(std::move(ssl)), peer_(std::move(peer)) {}
  Fd fd_;
  std::unique_ptr<ssl_st, SslFree> ssl_;
  std::string peer_;
  std::string peer_name_;
  std::optional<Fingerprint> peer_fingerprint_;
  bool broken_ = false;
};

}  // namespace transship::wire
