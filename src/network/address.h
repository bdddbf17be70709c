// IP addresses as values.
#pragma once
#include <sys/socket.h>

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace transship::network {

// IPv4 or IPv6, without port or zone. IPv4-mapped IPv6 becomes IPv4. Immutable value.
class IpAddress {
 public:
  IpAddress() = default;
  static Result<IpAddress> parse(std::string_view text);
  static IpAddress v4(const std::array<uint8_t, 4>& bytes);
  static IpAddress v6(const std::array<uint8_t, 16>& bytes);
  bool is_v4() const { return family_ == AF_INET; }
  uint8_t family() const { return family_; }
  const uint8_t* data() const { return bytes_.data(); }
  size_t size() const { return is_v4() ? 4 : 16; }
  unsigned bits() const { return is_v4() ? 32 : 128; }
  bool is_loopback() const;
  std::string text() const;
  auto operator<=>(const IpAddress&) const = default;

 private:
  uint8_t family_ = AF_INET;
  std::array<uint8_t, 16> bytes_ = {};
};

}  // namespace transship::network
