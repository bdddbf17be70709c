#include "storage/block_hashes.h"

#include <sys/stat.h>
#include <xxhash.h>

#include <algorithm>
#include <utility>

#include "storage/beneath.h"
#include "storage/extent.h"

namespace transship::storage {

BlockHash hash_block(std::span<const std::byte> block) {
  XXH128_hash_t h = XXH3_128bits(block.data(), block.size());
  return {h.low64, h.high64};
}

const BlockHash& zero_block_hash() {
  static const BlockHash hash = hash_block(std::vector<std::byte>(kHashBlock));
  return hash;
}

BlockHasher::BlockHasher(int64_t size) : hashes_{size, std::vector<BlockHash>(block_count(size))} {}

void BlockHasher::data(int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    auto block = static_cast<size_t>(offset / kHashBlock);
    auto within = static_cast<size_t>(offset % kHashBlock);
    auto n = std::min(bytes.size(), static_cast<size_t>(kHashBlock) - within);
    if (has_partial_ && partial_block_ != block) close();
    if (n == static_cast<size_t>(kHashBlock)) {
      hashes_.blocks[block] = hash_block(bytes.first(n));
    } else {
      if (!has_partial_) partial_.assign(kHashBlock, std::byte{0});
      has_partial_ = true;
      partial_block_ = block;
      std::copy_n(bytes.begin(), n, partial_.begin() + static_cast<ptrdiff_t>(within));
    }
    bytes = bytes.subspan(n);
    offset += static_cast<int64_t>(n);
  }
}

void BlockHasher::close() {
  hashes_.blocks[partial_block_] = hash_block(partial_);
  has_partial_ = false;
}

FileHashes BlockHasher::finish() {
  if (has_partial_) close();
  return std::exchange(hashes_, {});
}

namespace {

Result<Fd> open_to_hash(int root_fd, const std::string& path, struct stat& st) {
  auto none = [&](std::string_view why) { return fail(Errc::kNotFound, "hash {}: {}", printable(path), why); };
  if (!is_clean_path(path)) return none("not a name below the root");
  auto [parent, name] = split_path(path);
  auto dir = open_dir_beneath(root_fd, parent);
  if (!dir) return none(dir.error().message());
  // O_PATH first: opening a device or a FIFO has effects.
  auto found = open_at(dir->get(), std::string(name), O_PATH | O_NOFOLLOW);
  if (!found) return none(found.error().message());
  if (::fstat(found->get(), &st) != 0) return fail_errno(errno, "read attributes of {}", printable(path));
  if (!S_ISREG(st.st_mode)) return none("not a plain file");
  if (st.st_nlink != 1) return none("it has several names");
  return open_file(fmt::format("/proc/self/fd/{}", found->get()), O_RDONLY | O_NOATIME);
}

Result<> hash_extent(int fd, Extent x, std::vector<std::byte>& buffer, const Cancel& cancel, BlockHasher& hasher) {
  while (x.length > 0) {
    TS_TRY(cancel.check());
    // Whole blocks need no copy.
    auto want = std::min(x.length, static_cast<int64_t>(buffer.size()) - x.offset % kHashBlock);
    ssize_t n = retry_eintr([&] { return ::pread(fd, buffer.data(), static_cast<size_t>(want), x.offset); });
    if (n < 0) return fail_errno(errno, "read at {}", x.offset);
    if (n == 0) return fail(Errc::kUnavailable, "it became shorter while it was read");
    hasher.data(x.offset, std::span(buffer).first(static_cast<size_t>(n)));
    x.offset += n;
    x.length -= n;
  }
  return {};
}

}  // namespace

Result<FileHashes> hash_file(int root_fd, const std::string& path, size_t max_bytes, const Cancel& cancel) {
  struct stat st = {};
  TS_TRY_ASSIGN(Fd file, open_to_hash(root_fd, path, st));
  if (block_count(st.st_size) > max_bytes / sizeof(BlockHash))
    return fail(Errc::kNoSpace, "hash {}: the hashes of its {} bytes take over {} bytes", printable(path), st.st_size,
                max_bytes);
  TS_TRY_ASSIGN(auto extents, data_extents(file.get(), st.st_size));
  BlockHasher hasher(st.st_size);
  std::vector<std::byte> buffer(16 * kHashBlock);
  for (const auto& x : extents)
    TS_TRY_CTX(hash_extent(file.get(), x, buffer, cancel, hasher), fmt::format("hash {}", printable(path)));
  return hasher.finish();
}

}  // namespace transship::storage
