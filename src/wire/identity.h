// Who a node is: one Ed25519 key, in a self-signed certificate that says nothing else.
#pragma once
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

struct ssl_ctx_st;
struct x509_st;

namespace transship::wire {

// "SHA256:" and the base64 (no padding, as ssh prints it) of the SHA-256 of a SubjectPublicKeyInfo. A value that was
// checked: 32 bytes, canonical text.
class Fingerprint {
 public:
  // kInvalidArgument with what a fingerprint looks like.
  static Result<Fingerprint> parse(std::string_view text);
  static Result<Fingerprint> of(const x509_st* certificate);
  const std::string& text() const { return text_; }
  bool operator==(const Fingerprint&) const = default;

 private:
  explicit Fingerprint(std::string text) : text_(std::move(text)) {}
  std::string text_;
};

// Immutable, thread-safe; copies share the key.
class Identity {
 public:
  // `dir`/node.key (0600) and `dir`/node.crt; made when neither is there. Two processes that make it at once end up
  // with the same one. A key that others can read is refused, and so is half a pair.
  static Result<Identity> load_or_create(const std::string& dir);
  // In memory only.
  static Result<Identity> make_ephemeral();
  const Fingerprint& fingerprint() const;
  // TLS 1.3 only, this certificate, no resumption; every peer's certificate goes to TlsStream's own check.
  ssl_ctx_st* context() const;

 private:
  struct State;
  explicit Identity(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  std::shared_ptr<const State> state_;
};

}  // namespace transship::wire
