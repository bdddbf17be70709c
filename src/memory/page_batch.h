// One batch of pages as it travels in a lane (docs/protocol.md): which pages, which of them are all zero, and the
// content of the others, compressed or not. All numbers are little-endian.
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

enum class Compression : uint8_t { kInvalid = 0, kNone = 1, kLz4 = 2, kZstd = 3 };

struct PageSegment {
  PageRange range;
  bool zero = false;  // all of its pages are zero, no content travels
  bool operator==(const PageSegment&) const = default;
};

// Segments ascend and do not overlap. `content` is the pages of the segments that are not zero, one after the other:
// kBatchPages pages at most. Zero segments may be of any length.
struct PageBatch {
  SpaceId space;
  std::vector<PageSegment> segments;
  std::span<const std::byte> content;
};

// Compresses when `compression` says so and it pays (else the batch travels as kNone). `out` is replaced; reuse it.
// Thread-safe for different `out`. `level`: zstd's.
Result<> encode_batch(const PageBatch& batch, Compression compression, int level, std::vector<std::byte>& out);

// Any bytes at all are fine: kPeerProtocol says what is wrong. `scratch` holds decompressed content (reuse it); the
// batch's content points into it or into `frame`, whichever it is.
Result<PageBatch> decode_batch(std::span<const std::byte> frame, std::vector<std::byte>& scratch);

}  // namespace transship::memory
