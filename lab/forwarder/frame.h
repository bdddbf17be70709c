// One packet as a packet socket hands it over: with a virtio header, so that it may stand for many wire segments.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace transship::lab {

// 64 KiB of payload plus headers is the most that the kernel puts into one packet.
inline constexpr size_t kMaxFrame = 65536 + 512;

// struct virtio_net_hdr of <linux/virtio_net.h>, which C++ cannot include (a field is called `class`). In host byte
// order.
struct OffloadHeader {
  uint8_t flags = 0;
  uint8_t gso_type = 0;
  uint16_t hdr_len = 0;
  uint16_t gso_size = 0;
  uint16_t csum_start = 0;
  uint16_t csum_offset = 0;
};
static_assert(sizeof(OffloadHeader) == 10);

inline constexpr uint8_t kNeedsChecksum = 1;  // of flags
inline constexpr uint8_t kGsoNone = 0, kGsoTcp4 = 1, kGsoTcp6 = 4, kGsoUdp = 5, kGsoEcnBit = 0x80;

struct Frame {
  OffloadHeader header;
  std::vector<std::byte> data;  // from the Ethernet header on
};

}  // namespace transship::lab
