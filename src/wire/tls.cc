#include "wire/tls.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <sys/socket.h>

#include <algorithm>

#include "wire/openssl.h"
#include "wire/socket_bio.h"

namespace transship::wire {
namespace {

// What the verification callback decides by, and what it saw. Lives as long as the handshake.
struct PeerCheck {
  const Fingerprint* expected = nullptr;
  const PinLookup* pins = nullptr;  // neither: any key will do (probe)
  std::optional<Fingerprint> seen;
  std::optional<std::string> name;
  bool refused = false;

  bool accept(const X509* certificate) {
    auto print = certificate == nullptr ? Result<Fingerprint>(fail(Errc::kUnauthorized, "no certificate"))
                                        : Fingerprint::of(certificate);
    refused = true;
    if (!print) return false;
    seen = std::move(*print);
    if (expected != nullptr && *seen != *expected) return false;
    if (pins != nullptr) {
      name = (*pins)(*seen);
      if (!name) return false;
    }
    refused = false;
    return true;
  }
};

Result<> set_option(int fd, int level, int option, int value, std::string_view what) {
  if (::setsockopt(fd, level, option, &value, sizeof value) != 0) return fail_errno(errno, "set {}", what);
  return {};
}

// A peer that is gone without a word is noticed within kStallLimit, also while nobody sends anything.
Result<> prepare_socket(int fd) {
  constexpr int kStall = static_cast<int>(kStallLimit.count());
  int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
    return fail_errno(errno, "make a socket non-blocking");
  TS_TRY(set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY"));
  TS_TRY(set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, kStall, "TCP_USER_TIMEOUT"));
  TS_TRY(set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 5, "TCP_KEEPIDLE"));
  TS_TRY(set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 3, "TCP_KEEPINTVL"));
  TS_TRY(set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3, "TCP_KEEPCNT"));
  return set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1, "SO_KEEPALIVE");
}

std::unexpected<Error> unknown_to_peer(const std::string& peer) {
  return std::unexpected(Error(Errc::kUnauthorized, fmt::format("{} does not know the key of this node", peer))
                             .with_remedy("on that node: transship peer add, with the fingerprint of this one"));
}

// The newest error of the queue, as something a person can act on.
std::unexpected<Error> library_failure(const std::string& peer, std::string_view doing) {
  int reason = ERR_GET_REASON(ERR_peek_last_error());
  std::string text = take_openssl_errors();
  switch (reason) {
    case SSL_R_UNEXPECTED_EOF_WHILE_READING:
      return fail(Errc::kUnavailable, "{} {}: the connection was cut", doing, peer);
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED: return unknown_to_peer(peer);
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
      return fail(Errc::kUnauthorized, "{} {}: it shows no key", doing, peer);
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_TLSV1_ALERT_PROTOCOL_VERSION:
      return fail(Errc::kPeerProtocol, "{} {}: it does not speak TLS 1.3 ({})", doing, peer, text);
    default: return fail(Errc::kPeerProtocol, "{} {}: {}", doing, peer, text);
  }
}

}  // namespace

int verify_peer_key(X509_STORE_CTX* store, void* /*unused*/) {
  auto* ssl = static_cast<SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
  auto* check = static_cast<PeerCheck*>(SSL_get_app_data(ssl));
  bool ok = check != nullptr && check->accept(X509_STORE_CTX_get0_cert(store));
  // Tells the peer "unknown CA", the alert that says what is the matter: its key is not one that we were told of.
  X509_STORE_CTX_set_error(store, ok ? X509_V_OK : X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT);
  return ok ? 1 : 0;
}

struct TlsStream::State {
  Fd fd;
  SocketCounters socket;
  std::unique_ptr<SSL, FreeWith<&SSL_free>> ssl;
  std::string peer;
  std::string peer_name;
  std::optional<Fingerprint> peer_fingerprint;

  // What to do after an SSL_… call returned `rc` <= 0: an error, or wait and call again.
  Result<> wait_to_retry(int rc, Deadline deadline, const Cancel& cancel, std::string_view doing) {
    int why = SSL_get_error(ssl.get(), rc);
    if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE) return failure(why, doing);
    if (deadline.passed()) return fail(Errc::kTimeout, "{} {}: nothing more came through in time", doing, peer);
    auto what = fmt::format("{} {}", doing, peer);
    return why == SSL_ERROR_WANT_READ ? wait_readable(fd.get(), cancel, deadline, what)
                                      : wait_writable(fd.get(), cancel, deadline, what);
  }

  std::unexpected<Error> failure(int why, std::string_view doing) const {
    if (why == SSL_ERROR_SYSCALL && socket.error != 0) {
      // Whatever the reason in detail: the connection is gone, and another attempt may work.
      return std::unexpected(Error(socket.error == ETIMEDOUT ? Errc::kTimeout : Errc::kUnavailable,
                                   fmt::format("{} {}: {}", doing, peer, errno_text(socket.error)))
                                 .with_errno(socket.error));
    }
    if (why == SSL_ERROR_SYSCALL || why == SSL_ERROR_ZERO_RETURN)
      return fail(Errc::kUnavailable, "{} {}: the connection was cut", doing, peer);
    return library_failure(peer, doing);
  }

  // Why a write failed is often in what the peer said before it hung up: a refusal of our key, for one.
  std::optional<Error> last_words() {
    std::byte drop[512];
    ERR_clear_error();
    socket.error = 0;
    int rc = SSL_read(ssl.get(), drop, sizeof drop);
    int why = rc > 0 ? SSL_ERROR_NONE : SSL_get_error(ssl.get(), rc);
    if (why != SSL_ERROR_SSL) return std::nullopt;
    return library_failure(peer, "write to").error();
  }

  Result<> handshake(PeerCheck& check, Deadline deadline, const Cancel& cancel) {
    deadline = deadline.sooner(Deadline::in(kHandshakeLimit));
    SSL_set_app_data(ssl.get(), &check);
    Result<> result;
    while (true) {
      result = cancel.check();
      if (!result) break;
      ERR_clear_error();
      socket.error = 0;
      int rc = SSL_do_handshake(ssl.get());
      if (rc == 1) break;
      result = wait_to_retry(rc, deadline, cancel, "set up TLS with");
      if (!result) break;
    }
    SSL_set_app_data(ssl.get(), nullptr);
    return result;
  }
};

Result<std::unique_ptr<TlsStream::State>> TlsStream::open(Fd tcp, ssl_ctx_st* context, std::string peer) {
  TS_TRY(prepare_socket(tcp.get()));
  auto state = std::make_unique<State>();
  state->fd = std::move(tcp);
  state->peer = std::move(peer);
  state->ssl.reset(SSL_new(context));
  BIO* bio = state->ssl ? make_socket_bio(state->fd.get(), state->socket) : nullptr;
  if (bio == nullptr) return fail(Errc::kInternal, "set up TLS with {}: {}", state->peer, take_openssl_errors());
  SSL_set_bio(state->ssl.get(), bio, bio);
  return state;
}

Result<TlsStream> TlsStream::client(Fd tcp, const Identity& identity, const Fingerprint& expected, std::string peer,
                                    Deadline deadline, const Cancel& cancel) {
  TS_TRY_ASSIGN(auto state, open(std::move(tcp), identity.context(), std::move(peer)));
  SSL_set_connect_state(state->ssl.get());
  PeerCheck check{.expected = &expected, .seen = {}, .name = {}};
  auto done = state->handshake(check, deadline, cancel);
  if (!done && check.refused && check.seen)
    return std::unexpected(
        Error(Errc::kUnauthorized, fmt::format("{} answers with the key {}, not with the pinned {}", state->peer,
                                               check.seen->text(), expected.text()))
            .with_remedy("if that node was installed anew: transship peer rm and add it again, comparing the "
                         "fingerprints; otherwise something else answers at that address"));
  TS_TRY(std::move(done));
  state->peer_fingerprint = std::move(check.seen);
  return TlsStream(std::move(state));
}

Result<TlsStream> TlsStream::server(Fd tcp, const Identity& identity, const PinLookup& pins, std::string peer,
                                    Deadline deadline, const Cancel& cancel) {
  TS_TRY_ASSIGN(auto state, open(std::move(tcp), identity.context(), std::move(peer)));
  SSL_set_accept_state(state->ssl.get());
  PeerCheck check{.pins = &pins, .seen = {}, .name = {}};
  auto done = state->handshake(check, deadline, cancel);
  if (!done && check.refused && check.seen)
    return fail(Errc::kUnauthorized, "{} shows the key {}, which no peer has", state->peer, check.seen->text());
  TS_TRY(std::move(done));
  // The callback always ran: a certificate is required and nothing is ever resumed.
  TS_CHECK(check.name && check.seen, "TLS let a client in without asking us");
  state->peer_name = std::move(*check.name);
  state->peer_fingerprint = std::move(check.seen);
  return TlsStream(std::move(state));
}

Result<Fingerprint> probe_over(Fd tcp, std::string peer, Deadline deadline, const Cancel& cancel) {
  ContextPtr context = bare_context();
  if (!context) return fail(Errc::kInternal, "set up TLS 1.3: {}", take_openssl_errors());
  TS_TRY_ASSIGN(auto state, TlsStream::open(std::move(tcp), context.get(), std::move(peer)));
  SSL_set_connect_state(state->ssl.get());
  PeerCheck check;
  TS_TRY(state->handshake(check, deadline, cancel));
  TS_CHECK(check.seen.has_value(), "TLS finished without the server's key");
  return std::move(*check.seen);
}

TlsStream::TlsStream(std::unique_ptr<State> state) : state_(std::move(state)) {}
TlsStream::TlsStream(TlsStream&&) noexcept = default;
TlsStream& TlsStream::operator=(TlsStream&&) noexcept = default;
TlsStream::~TlsStream() = default;

Result<size_t> TlsStream::read_some(std::span<std::byte> buffer, Deadline deadline, const Cancel& cancel) {
  TS_CHECK(!buffer.empty(), "a read of nothing");
  State& s = *state_;
  while (true) {
    TS_TRY(cancel.check());
    ERR_clear_error();
    s.socket.error = 0;
    size_t n = 0;
    int rc = SSL_read_ex(s.ssl.get(), buffer.data(), buffer.size(), &n);
    if (rc == 1) return n;
    if (SSL_get_error(s.ssl.get(), rc) == SSL_ERROR_ZERO_RETURN) return 0U;
    TS_TRY(s.wait_to_retry(rc, deadline, cancel, "read from"));
  }
}

Result<size_t> TlsStream::write_some(std::span<const std::byte> data, Deadline deadline, const Cancel& cancel) {
  TS_CHECK(!data.empty(), "a write of nothing");
  State& s = *state_;
  while (true) {
    TS_TRY(cancel.check());
    ERR_clear_error();
    s.socket.error = 0;
    size_t n = 0;
    int rc = SSL_write_ex(s.ssl.get(), data.data(), data.size(), &n);
    if (rc == 1) return n;
    auto retry = s.wait_to_retry(rc, deadline, cancel, "write to");
    if (retry) continue;
    if (retry.error().code() == Errc::kUnavailable) {
      if (auto words = s.last_words()) return std::unexpected(std::move(*words));
    }
    return std::unexpected(std::move(retry).error());
  }
}

Result<bool> TlsStream::readable_now() {
  State& s = *state_;
  ERR_clear_error();
  s.socket.error = 0;
  std::byte one;
  int rc = SSL_peek(s.ssl.get(), &one, 1);
  if (rc > 0) return true;
  int why = SSL_get_error(s.ssl.get(), rc);
  if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) return false;
  if (why == SSL_ERROR_ZERO_RETURN) return true;
  return s.failure(why, "read from");
}

void TlsStream::finish() {
  ERR_clear_error();
  (void)SSL_shutdown(state_->ssl.get());
  (void)::shutdown(state_->fd.get(), SHUT_WR);
  ERR_clear_error();
}

void TlsStream::shutdown() noexcept { (void)::shutdown(state_->fd.get(), SHUT_RDWR); }

const std::string& TlsStream::peer() const { return state_->peer; }
uint64_t TlsStream::wire_bytes_written() const { return state_->socket.written; }
int TlsStream::fd() const { return state_->fd.get(); }
const std::string& TlsStream::peer_name() const { return state_->peer_name; }
const Fingerprint& TlsStream::peer_fingerprint() const { return *state_->peer_fingerprint; }
std::string TlsStream::cipher() const { return SSL_get_cipher_name(state_->ssl.get()); }

}  // namespace transship::wire
