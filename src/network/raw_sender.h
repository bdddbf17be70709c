// Whole IP packets out through one interface, whatever the main route says.
#pragma once
#include <span>

#include "base/fd.h"
#include "base/result.h"
#include "network/address.h"

namespace transship::network {

// One thread. Packets carry kHoldMark, by which the firewall exception of the hold knows them.
class RawSender {
 public:
  // None of the bits that engines give a meaning (netavark masquerades on 0x2000, Kubernetes on 0x4000).
  static constexpr uint32_t kHoldMark = 0x00740000;
  static Result<RawSender> create();
  // Of the interface only such routes are used that go through it.
  Result<> bind(unsigned interface);
  Result<> send(std::span<const std::byte> packet, const IpAddress& to);

 private:
  RawSender(Fd v4, Fd v6) : v4_(std::move(v4)), v6_(std::move(v6)) {}
  Fd v4_, v6_;  // v6_ is empty on a kernel without IPv6
};

}  // namespace transship::network
