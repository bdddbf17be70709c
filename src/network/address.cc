#include "network/address.h"

#include <arpa/inet.h>

#include <algorithm>

namespace transship::network {

IpAddress IpAddress::v4(const std::array<uint8_t, 4>& bytes) {
  IpAddress a;
  a.family_ = AF_INET;
  std::ranges::copy(bytes, a.bytes_.begin());
  return a;
}

IpAddress IpAddress::v6(const std::array<uint8_t, 16>& bytes) {
  constexpr std::array<uint8_t, 12> kMapped = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  if (std::equal(kMapped.begin(), kMapped.end(), bytes.begin()))
    return v4({bytes[12], bytes[13], bytes[14], bytes[15]});
  IpAddress a;
  a.family_ = AF_INET6;
  a.bytes_ = bytes;
  return a;
}

Result<IpAddress> IpAddress::parse(std::string_view text) {
  std::string s(text);
  std::array<uint8_t, 16> bytes = {};
  if (::inet_pton(AF_INET, s.c_str(), bytes.data()) == 1) return v4({bytes[0], bytes[1], bytes[2], bytes[3]});
  if (::inet_pton(AF_INET6, s.c_str(), bytes.data()) == 1) return v6(bytes);
  return fail(Errc::kInvalidArgument, "\"{}\" is not an IP address", s.substr(0, 64));
}

bool IpAddress::is_loopback() const {
  if (is_v4()) return bytes_[0] == 127;
  return std::all_of(bytes_.begin(), bytes_.begin() + 15, [](uint8_t b) { return b == 0; }) && bytes_[15] == 1;
}

std::string IpAddress::text() const {
  std::array<char, INET6_ADDRSTRLEN> buffer = {};
  (void)::inet_ntop(family_, bytes_.data(), buffer.data(), buffer.size());
  return buffer.data();
}

}  // namespace transship::network
