// What a lane carries. All numbers are big-endian.
//
//   0       1       2               4                               8                              16
//   | type  | kind  | name length   | payload length                | offset                        | name | payload
//
//   DATA   kind != 0, name 1..255 bytes (a plain name), payload 0..1 MiB, offset = where the payload goes
//   FLUSH  nothing but an offset, the number of the flush
//   ACK    the answer to the flush of that number: everything before it was consumed without error
//   ERROR  payload = a Failure message; the sender of it consumes nothing more
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"

namespace transship::wire {

inline constexpr size_t kFrameHeaderBytes = 16;
inline constexpr uint32_t kMaxFramePayload = 1U << 20;
inline constexpr uint16_t kMaxFrameName = 255;
inline constexpr uint32_t kMaxFrameError = 16U << 10;
// So that offset + length never overflows, as off_t either.
inline constexpr uint64_t kMaxFrameOffset = uint64_t{1} << 62;

enum class FrameType : uint8_t { kInvalid = 0, kData = 1, kFlush = 2, kAck = 3, kError = 4 };

struct FrameHeader {
  FrameType type = FrameType::kInvalid;
  uint8_t kind = 0;
  uint16_t name_length = 0;
  uint32_t length = 0;
  uint64_t offset = 0;
  bool operator==(const FrameHeader&) const = default;
};

// Requires: a header that decode_header would accept.
std::array<std::byte, kFrameHeaderBytes> encode_header(const FrameHeader& header);
// Pure; any bytes at all are fine. kPeerProtocol says what is wrong. Everything is capped on success.
Result<FrameHeader> decode_header(std::span<const std::byte> bytes);

}  // namespace transship::wire
