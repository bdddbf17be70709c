// The compressors behind one call. Internal to src/memory.
#pragma once
#include <cstddef>
#include <optional>
#include <span>

#include "base/result.h"
#include "memory/page_batch.h"

namespace transship::memory {

// Compresses `in` into `out` (not overlapping). Returns the number of bytes written, or nothing when they do not fit.
// `method` is kLz4 or kZstd; `level` is zstd's. Thread-safe: each thread has contexts of its own.
Result<std::optional<size_t>> compress(Compression method, int level, std::span<const std::byte> in,
                                       std::span<std::byte> out);

// Fills all of `out` from `in`, both of any content; kPeerProtocol when `in` is not exactly that many bytes compressed.
Result<> decompress(Compression method, std::span<const std::byte> in, std::span<std::byte> out);

// What compressed content must fit into to be worth decompressing.
inline constexpr size_t worthwhile_size(size_t bytes) { return bytes - bytes / 16; }

}  // namespace transship::memory
