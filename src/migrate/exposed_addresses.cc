#include "migrate/exposed_addresses.h"

#include <ifaddrs.h>
#include <netinet/in.h>

#include <bit>
#include <memory>

namespace transship::migrate {
namespace {

using network::ExposedAddress;
using network::IpAddress;

unsigned bits_of(const sockaddr* mask, size_t size) {
  const auto* bytes = mask->sa_family == AF_INET
                          ? reinterpret_cast<const uint8_t*>(&reinterpret_cast<const sockaddr_in*>(mask)->sin_addr)
                          : reinterpret_cast<const uint8_t*>(&reinterpret_cast<const sockaddr_in6*>(mask)->sin6_addr);
  unsigned bits = 0;
  for (size_t i = 0; i < size; ++i) bits += static_cast<unsigned>(std::popcount(bytes[i]));
  return bits;
}

bool same_network(const IpAddress& a, const sockaddr* b, unsigned bits) {
  if (b->sa_family != a.family()) return false;
  const auto* other = a.is_v4()
                          ? reinterpret_cast<const uint8_t*>(&reinterpret_cast<const sockaddr_in*>(b)->sin_addr)
                          : reinterpret_cast<const uint8_t*>(&reinterpret_cast<const sockaddr_in6*>(b)->sin6_addr);
  for (unsigned i = 0; i < bits; ++i)
    if (((a.data()[i / 8] ^ other[i / 8]) >> (7 - i % 8) & 1) != 0) return false;
  return true;
}

// Of its network on this host, by the gateway's address there; 0 when that has gone with the last container.
unsigned prefix_of(const IpAddress& a, const std::string& bridge) {
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return 0;
  std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(list, ::freeifaddrs);
  for (const auto* i = list; i != nullptr; i = i->ifa_next) {
    if (i->ifa_name != bridge || i->ifa_addr == nullptr || i->ifa_netmask == nullptr) continue;
    if (i->ifa_addr->sa_family != a.family()) continue;
    unsigned bits = bits_of(i->ifa_netmask, a.size());
    if (same_network(a, i->ifa_addr, bits)) return bits;
  }
  return 0;
}

}  // namespace

std::vector<ExposedAddress> exposed_addresses(const std::vector<IpAddress>& addresses, const std::string& bridge) {
  std::vector<ExposedAddress> all;
  for (const auto& a : addresses) all.push_back({a, prefix_of(a, bridge)});
  return all;
}

Result<std::vector<ExposedAddress>> exposed_addresses(const engine::Container& c) {
  std::vector<ExposedAddress> all;
  for (const auto& a : c.addresses) {
    TS_TRY_ASSIGN(auto address, IpAddress::parse(a.ip));
    all.push_back({address, a.prefix});
  }
  return all;
}

}  // namespace transship::migrate
