#include "memory/codec.h"

#include <lz4.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>
#include <memory>
#include <vector>

namespace transship::memory {
namespace {

constexpr int kMinLevel = 1;
constexpr int kMaxLevel = 19;  // above, zstd needs windows and memory that pages do not reward

struct FreeCompressor {
  void operator()(ZSTD_CCtx* c) const { ZSTD_freeCCtx(c); }
};
struct FreeDecompressor {
  void operator()(ZSTD_DCtx* d) const { ZSTD_freeDCtx(d); }
};

const char* chars(std::span<const std::byte> bytes) { return reinterpret_cast<const char*>(bytes.data()); }
char* chars(std::span<std::byte> bytes) { return reinterpret_cast<char*>(bytes.data()); }

std::optional<size_t> compress_lz4(std::span<const std::byte> in, std::span<std::byte> out) {
  // uint64_t, because LZ4 wants its state aligned to 8 bytes.
  thread_local std::vector<uint64_t> state((static_cast<size_t>(LZ4_sizeofState()) + 7) / 8);
  int n = LZ4_compress_fast_extState(state.data(), chars(in), chars(out), static_cast<int>(in.size()),
                                     static_cast<int>(out.size()), 1);
  if (n <= 0) return std::nullopt;
  return static_cast<size_t>(n);
}

Result<std::optional<size_t>> compress_zstd(int level, std::span<const std::byte> in, std::span<std::byte> out) {
  // Kept per thread: making one costs more than compressing a batch.
  thread_local std::unique_ptr<ZSTD_CCtx, FreeCompressor> context(ZSTD_createCCtx());
  if (!context) return fail(Errc::kNoSpace, "zstd: no memory for a compressor");
  size_t n = ZSTD_compressCCtx(context.get(), out.data(), out.size(), in.data(), in.size(),
                               std::clamp(level, kMinLevel, kMaxLevel));
  if (!ZSTD_isError(n)) return n;
  if (ZSTD_getErrorCode(n) == ZSTD_error_dstSize_tooSmall) return std::nullopt;
  return fail(Errc::kInternal, "zstd: compress {} bytes at level {}: {}", in.size(), level, ZSTD_getErrorName(n));
}

Result<> decompress_zstd(std::span<const std::byte> in, std::span<std::byte> out) {
  thread_local std::unique_ptr<ZSTD_DCtx, FreeDecompressor> context(ZSTD_createDCtx());
  if (!context) return fail(Errc::kNoSpace, "zstd: no memory for a decompressor");
  size_t n = ZSTD_decompressDCtx(context.get(), out.data(), out.size(), in.data(), in.size());
  if (ZSTD_isError(n))
    return fail(Errc::kPeerProtocol, "zstd content of {} bytes: {}", in.size(), ZSTD_getErrorName(n));
  if (n != out.size())
    return fail(Errc::kPeerProtocol, "zstd content of {} bytes instead of {}, decompressed", n, out.size());
  return {};
}

}  // namespace

Result<std::optional<size_t>> compress(Compression method, int level, std::span<const std::byte> in,
                                       std::span<std::byte> out) {
  TS_CHECK(method == Compression::kLz4 || method == Compression::kZstd);
  TS_CHECK(in.size() <= LZ4_MAX_INPUT_SIZE && out.size() <= LZ4_MAX_INPUT_SIZE);
  if (method == Compression::kLz4) return compress_lz4(in, out);
  return compress_zstd(level, in, out);
}

Result<> decompress(Compression method, std::span<const std::byte> in, std::span<std::byte> out) {
  TS_CHECK(method == Compression::kLz4 || method == Compression::kZstd);
  TS_CHECK(in.size() <= LZ4_MAX_INPUT_SIZE && out.size() <= LZ4_MAX_INPUT_SIZE);
  if (method == Compression::kZstd) return decompress_zstd(in, out);
  int n = LZ4_decompress_safe(chars(in), chars(out), static_cast<int>(in.size()), static_cast<int>(out.size()));
  if (n < 0 || static_cast<size_t>(n) != out.size())
    return fail(Errc::kPeerProtocol, "lz4 content of {} bytes is not {} bytes compressed", in.size(), out.size());
  return {};
}

}  // namespace transship::memory
