// A TUN device of ours: packets that the kernel routes to it are read here. It goes away with its descriptor.
#pragma once
#include <optional>
#include <span>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "network/address.h"

namespace transship::network {

// One thread reads.
class Tun {
 public:
  // Named `prefix` and a number of the kernel's choice; down, no address, no IPv6 messages of its own.
  static Result<Tun> create(const std::string& prefix);
  const std::string& name() const { return name_; }
  int fd() const { return fd_.get(); }
  // One packet, headers included; 0 when none is there now.
  Result<size_t> read(std::span<std::byte> buffer);

 private:
  Tun(Fd fd, std::string name) : fd_(std::move(fd)), name_(std::move(name)) {}
  Fd fd_;
  std::string name_;
};

// Destination of an IP packet; nothing when it is not a whole IPv4 or IPv6 header.
std::optional<IpAddress> destination_of(std::span<const std::byte> packet);

}  // namespace transship::network
