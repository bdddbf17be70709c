// One batch of pages as it travels in a lane: which pages, which of them are all zero, and the content of the others,
// compressed or not. All numbers are little-endian.
//
//   0   u32  magic "TSPB"                        16  u32  number of segments, 1 … kBatchSegments
//   4   u8   version, 1                          20  u32  bytes of content, 0 … kBatchPages pages, whole pages
//   5   u8   kind of the space (SpaceKind)       24  u32  bytes of content as it travels: all that follows the segments
//   6   u8   compression (Compression)           28  u32  zero
//   7   u8   zero                                32  u64  checksum: XXH3-64 of bytes 0 … 31, then of the segments, then
//   8   u64  id of the space                              of the content before compression, each seeded with the last
//   40  segments of 16 bytes: u64 address, its lowest bit set if the pages are zero; u64 number of pages
//       content
//
// The checksum finds memory that went bad and mistakes of ours; against an attacker there is TLS below.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "memory/page.h"

namespace transship::memory {

// Content of one batch at most, before compression; and its segments. Both are checked when decoding.
inline constexpr size_t kBatchPages = 128;
inline constexpr size_t kBatchSegments = 4096;
inline constexpr size_t kBatchHeaderBytes = 40;
inline constexpr size_t kBatchSegmentBytes = 16;
// The longest frame there is. One chunk of a lane holds it (1 MiB).
inline constexpr size_t kMaxBatchFrame =
    kBatchHeaderBytes + kBatchSegments * kBatchSegmentBytes + kBatchPages * kPageBytes;
// No range ends behind this: everything below is a valid file offset.
inline constexpr uint64_t kMaxPageEnd = 1ULL << 62;

enum class Compression : uint8_t { kInvalid = 0, kNone = 1, kLz4 = 2, kZstd = 3 };

struct PageSegment {
  PageRange range;
  bool zero = false;  // all of its pages are zero, no content travels
  bool operator==(const PageSegment&) const = default;
};

// Segments ascend, are not empty and do not overlap. `content` is the pages of the segments that are not zero, one
// after the other: kBatchPages pages at most. Zero segments may be of any length.
struct PageBatch {
  SpaceId space;
  std::vector<PageSegment> segments;
  std::span<const std::byte> content;
};

// Compresses when `compression` says so and it saves at least 1/16 (else the batch travels as kNone); a sample tells
// first, so that content that cannot be compressed costs little. Returns what the content travels as. `out` is replaced
// by the frame; reuse it. `level`: zstd's, 1 … 19, others are brought into that range. A batch that breaks the rules
// above is kInvalidArgument. Thread-safe for different `out`; each thread that calls this keeps about 1.1 MiB (level 1)
// until it ends.
Result<Compression> encode_batch(const PageBatch& batch, Compression compression, int level,
                                 std::vector<std::byte>& out);

// Any bytes at all are fine: kPeerProtocol says what is wrong, kCorrupt that content or segments are not what was sent.
// `scratch` holds decompressed content (reuse it); the batch's content points into it or into `frame`, whichever it is.
// Thread-safe for different `scratch`. NB: a few bytes may announce 2^50 zero pages; who stores them must not store
// each.
Result<PageBatch> decode_batch(std::span<const std::byte> frame, std::vector<std::byte>& scratch);

}  // namespace transship::memory
