// A network interface as a source and sink of packets (AF_PACKET with virtio headers, so offloaded packets pass whole).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "forwarder/frame.h"

namespace transship::lab {

// One thread may receive while another sends.
class PacketSocket {
 public:
  static Result<PacketSocket> open(const std::string& interface);
  int fd() const { return fd_.get(); }
  const std::string& interface() const { return interface_; }

  // Puts the packets that are there, at most a batch, behind those in `out`. Never waits.
  Result<> receive(std::vector<Frame>& out);
  // Sends without waiting. False if the interface would not take the packet now or at all: it is lost, as on a wire.
  bool send(const Frame& frame) const;

 private:
  PacketSocket(Fd fd, std::string interface);

  Fd fd_;
  std::string interface_;
  std::vector<std::byte> buffer_;  // room for one batch
};

}  // namespace transship::lab
