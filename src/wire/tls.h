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

struct ssl_ctx_st;

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
  const std::string& peer() const override;
  uint64_t wire_bytes_written() const override;
  int fd() const override;

  // Server: the name that the pin lookup gave. Client: empty.
  const std::string& peer_name() const;
  const Fingerprint& peer_fingerprint() const;
  // "TLS_AES_128_GCM_SHA256"
  std::string cipher() const;

 private:
  struct State;
  explicit TlsStream(std::unique_ptr<State> state);
  friend Result<Fingerprint> probe_over(Fd tcp, std::string peer, Deadline deadline, const Cancel& cancel);
  static Result<std::unique_ptr<State>> open(Fd tcp, ssl_ctx_st* context, std::string peer);
  std::unique_ptr<State> state_;
};

// A handshake that takes any key, shows none of ours and sends nothing else: the server's key, proven.
Result<Fingerprint> probe_over(Fd tcp, std::string peer, Deadline deadline, const Cancel& cancel);

}  // namespace transship::wire
