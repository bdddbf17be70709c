#include "memory/page_batch.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "memory/codec.h"

namespace transship::memory {
namespace {

constexpr uint32_t kMagic = 0x42505354;  // "TSPB"
constexpr uint8_t kVersion = 1;
constexpr size_t kChecksumAt = 32;
constexpr uint64_t kZeroFlag = 1;  // in an address, whose low bits are free
static_assert(kMaxBatchFrame <= 1U << 20, "a batch must fit one chunk of a lane");

// A sample is many short pieces: neighbouring pages are often alike, and differ from those further on.
constexpr size_t kSamplePieces = 8;
constexpr size_t kSamplePieceBytes = 2048;
constexpr size_t kSampleBytes = kSamplePieces * kSamplePieceBytes;
// Below this, trying costs as little as sampling.
constexpr size_t kSampleFrom = 4 * kSampleBytes;

template <class T>
T little(T value) {
  if constexpr (std::endian::native == std::endian::big && sizeof(T) > 1) return std::byteswap(value);
  return value;
}
template <class T>
void put(std::span<std::byte> to, size_t at, T value) {
  value = little(value);
  std::memcpy(to.subspan(at, sizeof value).data(), &value, sizeof value);
}
template <class T>
T get(std::span<const std::byte> from, size_t at) {
  T value;
  std::memcpy(&value, from.subspan(at, sizeof value).data(), sizeof value);
  return little(value);
}

uint64_t checksum(std::span<const std::byte> header, std::span<const std::byte> segments,
                  std::span<const std::byte> content) {
  uint64_t h = XXH3_64bits(header.data(), kChecksumAt);
  h = XXH3_64bits_withSeed(segments.data(), segments.size(), h);
  return XXH3_64bits_withSeed(content.data(), content.size(), h);
}

// The rules of PageBatch. `code`: whose fault a broken one is.
Result<> check(const PageBatch& batch, Errc code) {
  if (batch.space.kind != SpaceKind::kTask && batch.space.kind != SpaceKind::kShared)
    return fail(code, "page batch of the unknown kind of space {}", static_cast<unsigned>(batch.space.kind));
  if (batch.segments.empty() || batch.segments.size() > kBatchSegments)
    return fail(code, "page batch of {} segments; 1 to {} are allowed", batch.segments.size(), kBatchSegments);
  uint64_t end = 0;
  uint64_t content_pages = 0;
  for (const auto& [range, zero] : batch.segments) {
    if (range.address % kPageBytes != 0 || range.address > kMaxPageEnd || range.pages == 0 ||
        range.pages > (kMaxPageEnd - range.address) / kPageBytes)
      return fail(code, "page batch with {} pages at {:#x}", range.pages, range.address);
    if (range.address < end)
      return fail(code, "page batch whose pages at {:#x} do not come after those up to {:#x}", range.address, end);
    end = range.end();
    if (zero) continue;
    if (range.pages > kBatchPages - content_pages)
      return fail(code, "page batch with content of more than {} pages", kBatchPages);
    content_pages += range.pages;
  }
  if (batch.content.size() != content_pages * kPageBytes)
    return fail(code, "page batch with {} bytes of content for {} pages", batch.content.size(), content_pages);
  return {};
}

Result<bool> sample_pays(std::span<const std::byte> content, Compression method, int level) {
  if (content.size() < kSampleFrom) return true;
  std::array<std::byte, kSampleBytes> sample;
  std::array<std::byte, worthwhile_size(kSampleBytes)> compressed;
  // Pieces start at different places inside their pages: what allocators put at the start of each is not typical.
  size_t step = content.size() / kSamplePieces + kSamplePieceBytes;
  for (size_t i = 0; i < kSamplePieces; ++i) {
    size_t at = std::min(i * step, content.size() - kSamplePieceBytes);
    std::ranges::copy(content.subspan(at, kSamplePieceBytes), sample.begin() + i * kSamplePieceBytes);
  }
  TS_TRY_ASSIGN(auto size, compress(method, level, sample, compressed));
  return size.has_value();
}

// What travels as content, and as what. Compressed content is in a buffer of this thread, until its next batch.
struct Stored {
  Compression compression = Compression::kNone;
  std::span<const std::byte> bytes;
};
Result<Stored> compress_content(std::span<const std::byte> content, Compression method, int level) {
  Stored as_is{Compression::kNone, content};
  if (method == Compression::kNone || content.empty()) return as_is;
  TS_TRY_ASSIGN(bool pays, sample_pays(content, method, level));
  if (!pays) return as_is;
  // Compressing straight into the frame would mean to clear, for each batch, a frame of full size.
  thread_local std::vector<std::byte> buffer(worthwhile_size(kBatchPages * kPageBytes));
  auto room = std::span(buffer).first(worthwhile_size(content.size()));
  TS_TRY_ASSIGN(auto size, compress(method, level, content, room));
  if (!size) return as_is;
  return Stored{method, std::span<const std::byte>(buffer).first(*size)};
}

void put_segments(const PageBatch& batch, std::span<std::byte> to) {
  for (size_t i = 0; i < batch.segments.size(); ++i) {
    const auto& [range, zero] = batch.segments[i];
    put<uint64_t>(to, i * kBatchSegmentBytes, range.address | (zero ? kZeroFlag : 0));
    put<uint64_t>(to, i * kBatchSegmentBytes + 8, range.pages);
  }
}

struct Header {
  Compression compression = Compression::kInvalid;
  SpaceId space;
  size_t segments = 0;
  size_t content = 0;
  size_t stored = 0;
  uint64_t checksum = 0;
};

// After this, lengths agree with each other, with the limits and with the frame.
Result<> check(const Header& h, size_t frame) {
  if (h.compression < Compression::kNone || h.compression > Compression::kZstd)
    return fail(Errc::kPeerProtocol, "page batch with the unknown compression {}",
                static_cast<unsigned>(h.compression));
  if (h.segments == 0 || h.segments > kBatchSegments)
    return fail(Errc::kPeerProtocol, "page batch of {} segments; 1 to {} are allowed", h.segments, kBatchSegments);
  if (h.content > kBatchPages * kPageBytes || h.content % kPageBytes != 0)
    return fail(Errc::kPeerProtocol, "page batch with {} bytes of content", h.content);
  bool plain = h.compression == Compression::kNone;
  if (plain ? h.stored != h.content : h.stored == 0 || h.stored >= h.content)
    return fail(Errc::kPeerProtocol, "page batch whose {} bytes of content travel as {}", h.content, h.stored);
  size_t expected = kBatchHeaderBytes + h.segments * kBatchSegmentBytes + h.stored;
  if (frame != expected)
    return fail(Errc::kPeerProtocol, "page batch of {} bytes, its header says {}", frame, expected);
  return {};
}

Result<Header> get_header(std::span<const std::byte> frame) {
  if (frame.size() < kBatchHeaderBytes)
    return fail(Errc::kPeerProtocol, "page batch of {} bytes, shorter than its header", frame.size());
  if (get<uint32_t>(frame, 0) != kMagic) return fail(Errc::kPeerProtocol, "page batch without its magic number");
  if (auto version = get<uint8_t>(frame, 4); version != kVersion)
    return fail(Errc::kPeerProtocol, "page batch of version {}; this side knows version {}", version, kVersion);
  if (get<uint8_t>(frame, 7) != 0 || get<uint32_t>(frame, 28) != 0)
    return fail(Errc::kPeerProtocol, "page batch with something where zero must be");
  Header h;
  h.space = {static_cast<SpaceKind>(get<uint8_t>(frame, 5)), get<uint64_t>(frame, 8)};
  h.compression = static_cast<Compression>(get<uint8_t>(frame, 6));
  h.segments = get<uint32_t>(frame, 16);
  h.content = get<uint32_t>(frame, 20);
  h.stored = get<uint32_t>(frame, 24);
  h.checksum = get<uint64_t>(frame, kChecksumAt);
  TS_TRY(check(h, frame.size()));
  return h;
}

std::vector<PageSegment> get_segments(std::span<const std::byte> from) {
  std::vector<PageSegment> segments(from.size() / kBatchSegmentBytes);
  for (size_t i = 0; i < segments.size(); ++i) {
    auto address = get<uint64_t>(from, i * kBatchSegmentBytes);
    auto pages = get<uint64_t>(from, i * kBatchSegmentBytes + 8);
    segments[i] = {{address & ~kZeroFlag, pages}, (address & kZeroFlag) != 0};
  }
  return segments;
}

}  // namespace

Result<Compression> encode_batch(const PageBatch& batch, Compression compression, int level,
                                 std::vector<std::byte>& out) {
  if (compression < Compression::kNone || compression > Compression::kZstd)
    return fail(Errc::kInvalidArgument, "page batch for the unknown compression {}",
                static_cast<unsigned>(compression));
  TS_TRY(check(batch, Errc::kInvalidArgument));
  TS_TRY_ASSIGN(Stored stored, compress_content(batch.content, compression, level));
  size_t segment_bytes = batch.segments.size() * kBatchSegmentBytes;
  out.resize(kBatchHeaderBytes + segment_bytes + stored.bytes.size());
  std::span<std::byte> frame = out;
  put<uint32_t>(frame, 0, kMagic);
  put<uint8_t>(frame, 4, kVersion);
  put<uint8_t>(frame, 5, static_cast<uint8_t>(batch.space.kind));
  put<uint8_t>(frame, 6, static_cast<uint8_t>(stored.compression));
  put<uint8_t>(frame, 7, 0);
  put<uint64_t>(frame, 8, batch.space.id);
  put<uint32_t>(frame, 16, static_cast<uint32_t>(batch.segments.size()));
  put<uint32_t>(frame, 20, static_cast<uint32_t>(batch.content.size()));
  put<uint32_t>(frame, 24, static_cast<uint32_t>(stored.bytes.size()));
  put<uint32_t>(frame, 28, 0);
  auto segments = frame.subspan(kBatchHeaderBytes, segment_bytes);
  put_segments(batch, segments);
  put<uint64_t>(frame, kChecksumAt, checksum(frame, segments, batch.content));
  std::ranges::copy(stored.bytes, frame.subspan(kBatchHeaderBytes + segment_bytes).begin());
  return stored.compression;
}

Result<PageBatch> decode_batch(std::span<const std::byte> frame, std::vector<std::byte>& scratch) {
  TS_TRY_ASSIGN(Header header, get_header(frame));
  auto segments = frame.subspan(kBatchHeaderBytes, header.segments * kBatchSegmentBytes);
  auto stored = frame.subspan(kBatchHeaderBytes + segments.size());
  PageBatch batch{header.space, get_segments(segments), stored};
  if (header.compression != Compression::kNone) {
    // Only ever grows, up to kBatchPages: clearing it for each batch would cost as much as decompressing.
    if (scratch.size() < header.content) scratch.resize(header.content);
    auto content = std::span(scratch).first(header.content);
    TS_TRY(decompress(header.compression, stored, content));
    batch.content = content;
  }
  TS_TRY(check(batch, Errc::kPeerProtocol));
  if (checksum(frame, segments, batch.content) != header.checksum)
    return fail(Errc::kCorrupt, "page batch of {} pages from {:#x} on arrived damaged: its checksum is another",
                batch.content.size() / kPageBytes, batch.segments.front().range.address);
  return batch;
}

}  // namespace transship::memory
