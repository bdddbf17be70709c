#include "wire/lane_frame.h"

namespace transship::wire {
namespace {

template <class T>
void put(std::span<std::byte> at, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) at[i] = static_cast<std::byte>(value >> 8 * (sizeof(T) - 1 - i));
}

template <class T>
T get(std::span<const std::byte> at) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) value = static_cast<T>(value << 8 | std::to_integer<T>(at[i]));
  return value;
}

Result<> check(const FrameHeader& h) {
  switch (h.type) {
    case FrameType::kData:
      if (h.kind == 0) return fail(Errc::kPeerProtocol, "a data frame without a kind");
      if (h.name_length == 0 || h.name_length > kMaxFrameName)
        return fail(Errc::kPeerProtocol, "a data frame with a name of {} bytes; 1 to {} are allowed", h.name_length,
                    kMaxFrameName);
      if (h.length > kMaxFramePayload)
        return fail(Errc::kPeerProtocol, "a data frame of {} bytes; at most {} are allowed", h.length,
                    kMaxFramePayload);
      if (h.offset > kMaxFrameOffset) return fail(Errc::kPeerProtocol, "a data frame at the offset {}", h.offset);
      return {};
    case FrameType::kFlush:
    case FrameType::kAck:
      if (h.kind != 0 || h.name_length != 0 || h.length != 0)
        return fail(Errc::kPeerProtocol, "a flush or its answer that carries something");
      return {};
    case FrameType::kError:
      if (h.kind != 0 || h.name_length != 0 || h.offset != 0 || h.length == 0 || h.length > kMaxFrameError)
        return fail(Errc::kPeerProtocol, "an error frame of the wrong form ({} bytes)", h.length);
      return {};
    case FrameType::kInvalid: break;
  }
  return fail(Errc::kPeerProtocol, "a frame of the unknown type {}", static_cast<unsigned>(h.type));
}

}  // namespace

std::array<std::byte, kFrameHeaderBytes> encode_header(const FrameHeader& header) {
  TS_CHECK(check(header).has_value(), "a frame header that the receiver would refuse");
  std::array<std::byte, kFrameHeaderBytes> out{};
  std::span<std::byte> at = out;
  put(at.subspan(0, 1), static_cast<uint8_t>(header.type));
  put(at.subspan(1, 1), header.kind);
  put(at.subspan(2, 2), header.name_length);
  put(at.subspan(4, 4), header.length);
  put(at.subspan(8, 8), header.offset);
  return out;
}

Result<FrameHeader> decode_header(std::span<const std::byte> bytes) {
  if (bytes.size() != kFrameHeaderBytes)
    return fail(Errc::kPeerProtocol, "a frame header of {} bytes instead of {}", bytes.size(), kFrameHeaderBytes);
  FrameHeader h;
  h.type = static_cast<FrameType>(get<uint8_t>(bytes.subspan(0, 1)));
  h.kind = get<uint8_t>(bytes.subspan(1, 1));
  h.name_length = get<uint16_t>(bytes.subspan(2, 2));
  h.length = get<uint32_t>(bytes.subspan(4, 4));
  h.offset = get<uint64_t>(bytes.subspan(8, 8));
  TS_TRY(check(h));
  return h;
}

}  // namespace transship::wire
