// A data lane as its receiver reads it, and frames of the receiver as the sender reads them.
#include "base/text.h"
#include "fuzz/input.h"
#include "fuzz/memory_stream.h"
#include "fuzz/target.h"
#include "wire/lane_frame.h"
#include "wire/lanes.h"

namespace transship::fuzz {
namespace {

using namespace wire;

constexpr LaneReceiveOptions kOptions{.stall = milliseconds(1000), .idle = milliseconds(1000)};

// What is accepted is written again as it was.
void one_header(std::string_view bytes) {
  auto header = decode_header(as_bytes(bytes));
  if (!header) return;
  TS_CHECK(header->length <= kMaxFramePayload);
  TS_CHECK(header->type != FrameType::kData || header->offset <= kMaxFrameOffset);  // else it is a number
  auto again = encode_header(*header);
  TS_CHECK(std::ranges::equal(as_bytes(bytes), again));
}

void run(std::string_view bytes) {
  Input in(bytes);
  auto how = in.byte();
  size_t step = in.byte();
  one_header(bytes.substr(0, kFrameHeaderBytes));
  MemoryStream stream(in.rest(), step, (how & 1) != 0);
  uint64_t chunks = 0;
  auto sink = [&](const ChunkHeader& chunk, std::span<const std::byte> data) -> Result<> {
    ++chunks;
    TS_CHECK(chunk.kind != 0 && is_plain_name(chunk.name), "kind {} name {}", chunk.kind, chunk.name);
    TS_CHECK(data.size() <= kMaxFramePayload && chunk.offset <= kMaxFrameOffset);
    if ((how & 2) != 0 && chunks == 3) return fail(Errc::kNoSpace, "full \xff\n\x1b");
    return {};
  };
  auto got = receive_lane(stream, sink, kOptions, never());
  TS_CHECK(!got || got->chunks == chunks);
  // Whatever was answered is frames.
  for (std::string_view answers = stream.heard; !answers.empty();) {
    auto header = decode_header(as_bytes(answers.substr(0, kFrameHeaderBytes)));
    TS_CHECK(header && (header->type == FrameType::kAck || header->type == FrameType::kError));
    answers.remove_prefix(kFrameHeaderBytes);
    peer::Failure failure;
    TS_CHECK(header->length <= answers.size() &&
             failure.ParseFromString(std::string(answers.substr(0, header->length))));
    (void)to_error(failure);
    answers.remove_prefix(header->length);
  }
}

std::string frame(const FrameHeader& header, std::string_view name, std::string_view payload) {
  auto head = encode_header(header);
  return std::string(reinterpret_cast<const char*>(head.data()), head.size()) + std::string(name) +
         std::string(payload);
}

std::string data(uint8_t kind, std::string_view name, uint64_t offset, std::string_view payload) {
  return frame({.type = FrameType::kData,
                .kind = kind,
                .name_length = static_cast<uint16_t>(name.size()),
                .length = static_cast<uint32_t>(payload.size()),
                .offset = offset},
               name, payload);
}

std::vector<std::string> seeds() {
  auto flush = frame({.type = FrameType::kFlush, .offset = 1}, "", "");
  auto error = frame({.type = FrameType::kError, .length = 2}, "", "\x0a\x00");
  std::string all = data(1, "pagemap-1.img", 0, "image") + data(2, "round-0", 0, "tar") + data(2, "round-0", 3, "") +
                    flush + data(4, "pages", 0, "batch") + data(5, "pages", kMaxFrameOffset, "batch") + flush;
  std::string whole("\0\0", 2), cut("\1\7", 2), refused("\2\1", 2);
  return {whole + all, cut + all, refused + all, whole + error, whole + data(3, "../x", 0, "y"), whole + flush};
}

const Registration kRegistration({"lane_frames", run, seeds});

}  // namespace
}  // namespace transship::fuzz
