#include "wire/openssl.h"

#include <openssl/err.h>

namespace transship::wire {

std::string take_openssl_errors() {
  std::string text;
  while (unsigned long code = ERR_get_error()) {
    char buffer[256];
    ERR_error_string_n(code, buffer, sizeof buffer);
    if (!text.empty()) text += "; ";
    text += buffer;
  }
  return text.empty() ? "OpenSSL gave no reason" : text;
}

ContextPtr bare_context() {
  // A certificate of ours has under 400 bytes; this is what a stranger may make us hold.
  constexpr long kMaxCertificateBytes = 8192;
  // Several records per read from the socket.
  constexpr size_t kReadBuffer = 128U << 10;
  ContextPtr context(SSL_CTX_new(TLS_method()));
  if (!context) return nullptr;
  SSL_CTX* c = context.get();
  if (SSL_CTX_set_min_proto_version(c, TLS1_3_VERSION) != 1 || SSL_CTX_set_max_proto_version(c, TLS1_3_VERSION) != 1)
    return nullptr;
  // AES-128-GCM first: the quickest where the CPU has AES instructions, and as safe as is needed.
  if (SSL_CTX_set_ciphersuites(c, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256") != 1)
    return nullptr;
  if (SSL_CTX_set1_sigalgs_list(c, "ed25519") != 1) return nullptr;
  SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_options(c, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
  if (SSL_CTX_set_num_tickets(c, 0) != 1) return nullptr;
  SSL_CTX_set_mode(c, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_max_cert_list(c, kMaxCertificateBytes);
  SSL_CTX_set_read_ahead(c, 1);
  SSL_CTX_set_default_read_buffer_len(c, kReadBuffer);
  SSL_CTX_set_verify(c, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  SSL_CTX_set_cert_verify_callback(c, &verify_peer_key, nullptr);
  return context;
}

}  // namespace transship::wire
