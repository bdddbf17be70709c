// What travels on the data lanes, and under which names (docs/protocol.md).
#pragma once
#include <cstdint>
#include <string>

namespace transship::migrate {

enum class Channel : uint8_t {
  kInvalid = 0,
  kCriuImage = 1,   // name = file in CRIU's image directory; any order
  kRootfs = 2,      // name = "round-N"; one sequential stream, ended by an empty chunk
  kImageLayer = 3,  // name = file of the exported image; any order
  kPages = 4,       // a batch of memory/page_batch.h; any order within a round
  kVolume = 6,      // name = volume_stream(); else as kRootfs
  kStalePages = 5,  // the same, zero segments only: forget what came for these, it follows later
};

// "volume-1-round-3"
inline std::string volume_stream(uint32_t volume, uint32_t round) {
  return "volume-" + std::to_string(volume) + "-round-" + std::to_string(round);
}
inline std::string rootfs_stream(uint32_t round) { return "round-" + std::to_string(round); }

}  // namespace transship::migrate
