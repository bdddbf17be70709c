// Who a node is in the tunnel: one X25519 key, as WireGuard uses it, and the address that follows from it.
#pragma once
#include <array>
#include <compare>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "network/address.h"

namespace transship::network {

// First bytes of every address in the tunnel, fd80:ebe5:8657::/48: the unique local prefix whose 40 bits are the first
// ones of SHA-256("transship tunnel").
inline constexpr unsigned kTunnelPrefixBits = 48;
IpAddress tunnel_prefix();

// 32 bytes that were checked. Immutable value.
class TunnelPublicKey {
 public:
  static constexpr size_t kBytes = 32;
  // kInvalidArgument: another length, or a point with which no secret can be agreed on.
  static Result<TunnelPublicKey> from_bytes(std::string_view bytes);
  // As wg writes it: 44 characters of base64, canonical.
  static Result<TunnelPublicKey> parse(std::string_view encoded);
  std::string bytes() const { return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()}; }
  std::string text() const;
  // The prefix and the first 80 bits of a hash of the key: nobody can have another's without its key.
  IpAddress address() const;
  auto operator<=>(const TunnelPublicKey&) const = default;

 private:
  std::array<uint8_t, kBytes> bytes_ = {};
};

// Immutable, thread-safe; copies share the key.
class TunnelKey {
 public:
  // The file holds what `wg genkey` prints, 0600; made when it is not there. A key that others can read is refused.
  static Result<TunnelKey> load_or_create(const std::string& path);
  const TunnelPublicKey& public_key() const { return public_; }
  // For wg's standard input only: never in a log, a message or a command line.
  std::string secret_text() const;

 private:
  TunnelKey(std::shared_ptr<const std::string> secret, TunnelPublicKey own)
      : secret_(std::move(secret)), public_(own) {}
  std::shared_ptr<const std::string> secret_;  // 32 bytes; wiped with the last copy
  TunnelPublicKey public_;
};

}  // namespace transship::network
