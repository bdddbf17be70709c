// Batches of memory pages: decoded, put into the stores of a destination, dropped again.
#include <array>
#include <map>
#include <optional>

#include "fuzz/input.h"
#include "fuzz/target.h"
#include "memory/page_batch.h"
#include "memory/page_store.h"
#include "memory/shared_store.h"

#include <xxhash.h>

namespace transship::fuzz {
namespace {

using namespace memory;

constexpr uint64_t kLimit = 1U << 20;

// The checksum would keep nearly every changed batch from getting further. It is no secret: a peer can make it as well.
std::string mended(std::string_view bytes) {
  std::string batch(bytes);
  if (batch.size() < kBatchHeaderBytes) return batch;
  uint32_t segments = 0, stored = 0;
  std::memcpy(&segments, batch.data() + 16, sizeof segments);
  std::memcpy(&stored, batch.data() + 24, sizeof stored);
  auto size = std::min<size_t>(size_t{segments} * kBatchSegmentBytes, batch.size() - kBatchHeaderBytes);
  auto content = std::string_view(batch).substr(kBatchHeaderBytes + size, stored);
  uint64_t h = XXH3_64bits(batch.data(), 32);
  h = XXH3_64bits_withSeed(batch.data() + kBatchHeaderBytes, size, h);
  h = XXH3_64bits_withSeed(content.data(), content.size(), h);
  std::memcpy(batch.data() + 32, &h, sizeof h);
  return batch;
}

uint64_t end_of(const PageBatch& batch) { return batch.segments.back().range.end(); }

void decoded(std::string_view bytes, const PageBatch& batch) {
  TS_CHECK(!batch.segments.empty() && end_of(batch) <= kMaxPageEnd);
  std::vector<std::byte> again;
  TS_CHECK(encode_batch(batch, Compression::kNone, 1, again));
  std::vector<std::byte> scratch;
  auto same = decode_batch(again, scratch);
  TS_CHECK(same && same->segments == batch.segments && std::ranges::equal(same->content, batch.content));
  TS_CHECK(again.size() >= bytes.size());
}

// All that arrived can be read, and is what came.
void compare(const PageStore& store, const PageBatch& batch) {
  auto content = batch.content;
  for (const auto& segment : batch.segments) {
    if (segment.zero) continue;
    std::vector<std::byte> out(segment.range.bytes());
    TS_CHECK(store.copy_out(batch.space, segment.range, out));
    TS_CHECK(std::ranges::equal(out, content.first(out.size())));
    content = content.subspan(out.size());
  }
}

void keep(PageStore& store, SharedStore& shared, const PageBatch& batch, bool stale) {
  if (stale) {
    for (const auto& segment : batch.segments) {
      shared.drop(batch.space.id, segment.range);
      store.drop(batch.space, segment.range);
    }
    return;
  }
  if (batch.space.kind == SpaceKind::kShared) {
    auto kept = shared.put(batch);
    if (kept && *kept) return;
  }
  auto put = store.put(batch);
  TS_CHECK(store.bytes_held() <= kLimit, "{} bytes are held", store.bytes_held());
  if (put) compare(store, batch);
}

void run(std::string_view bytes) {
  Input in(bytes);
  std::optional<PageStore> store;
  SharedStore shared(2);
  std::vector<std::byte> scratch;
  while (!in.empty()) {
    auto how = in.byte();
    auto piece = in.piece();
    auto frame = (how & 1) != 0 ? std::string(piece) : mended(piece);
    auto batch = decode_batch(as_bytes(frame), scratch);
    if (!batch) continue;
    decoded(frame, *batch);
    // Zero pages take no memory, but time to mark them: a peer may ask for that, a fuzzer for less.
    bool huge = std::ranges::any_of(batch->segments, [](const auto& s) { return s.range.pages > 1U << 20; });
    if (huge && (how & 2) == 0) continue;
    if (!store) {
      auto made = PageStore::create(kLimit);
      TS_CHECK(made, "{}", made.error().message());
      store.emplace(std::move(*made));
    }
    keep(*store, shared, *batch, (how & 2) != 0);
  }
  if (!store) return;
  for (auto space : store->spaces()) store->drop(space);
  TS_CHECK(store->bytes_held() == 0, "{} bytes are left", store->bytes_held());
}

std::string batch(SpaceId space, Compression compression, std::vector<PageSegment> segments, char fill) {
  std::vector<std::byte> content;
  for (const auto& s : segments)
    if (!s.zero) content.resize(content.size() + s.range.bytes(), static_cast<std::byte>(fill));
  std::vector<std::byte> out;
  TS_CHECK(encode_batch({space, std::move(segments), content}, compression, 1, out));
  return {reinterpret_cast<const char*>(out.data()), out.size()};
}

std::vector<std::string> seeds() {
  SpaceId task{SpaceKind::kTask, 7}, object{SpaceKind::kShared, 3};
  auto zeros = batch(task, Compression::kNone, {{{0x10000, 3}, true}, {{0x4000000, 1}, true}}, 0);
  auto lz4 = batch(task, Compression::kLz4, {{{0x10000, 2}, false}, {{0x13000, 1}, true}}, 'a');
  auto zstd = batch(object, Compression::kZstd, {{{0x3fff000, 2}, false}}, 'b');
  auto far = batch(object, Compression::kNone, {{{kMaxPageEnd - 0x1000, 1}, true}}, 0);
  auto many = Output();
  for (const auto& one : {zeros, lz4, zstd, far}) many.byte(0).piece(one);
  many.byte(2).piece(zeros).byte(2).piece(lz4).byte(0).piece(lz4);
  std::vector<std::string> all = {many.bytes()};
  for (const auto& one : {zeros, lz4, zstd, far}) all.push_back(Output().byte(1).piece(one).bytes());
  return all;
}

const Registration kRegistration({"page_batch", run, seeds});

}  // namespace
}  // namespace transship::fuzz
