#include "storage/send_contents.h"

#include <algorithm>

#include "storage/beneath.h"
#include "storage/make_patch.h"
#include "storage/scan_diff.h"

namespace transship::storage {
namespace {

constexpr size_t kReadSize = 1 << 20;

// Nothing where the file system has no birth times: a file that got the number of another one cannot be told from it.
std::optional<FileIdentity> id_of(int fd) {
  struct statx st = {};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &st) != 0) return {};
  if ((st.stx_mask & STATX_BTIME) == 0) return {};
  return FileIdentity{st.stx_ino, to_ns({st.stx_btime.tv_sec, st.stx_btime.tv_nsec})};
}

}  // namespace

Result<> ContentSender::send(int fd, const struct stat& st, bool may_patch, Entry& e) {
  if (options_.known == nullptr) return send_whole(fd, e, nullptr);
  if (!may_patch || e.size < kLargeFile || st.st_dev != device_) {
    options_.known->forget_tree(e.path);
    return send_whole(fd, e, nullptr);
  }
  return send_large(fd, id_of(fd), e);
}

Result<> ContentSender::send_large(int fd, std::optional<FileIdentity> id, Entry& e) {
  auto known = options_.known->take(e.path);
  options_.known->forget_tree(e.path);
  TS_TRY_ASSIGN(auto parts, written_parts(fd, id, known));
  if (!options_.known->has_room_for(e.path, e.size)) return send_whole(fd, e, nullptr);
  KnownFile now;
  if (options_.written != nullptr) now.followed = id;
  if (known) {
    PatchMaker maker(fd, e, parts ? &*parts : nullptr, std::move(known->hashes), out_, cancel_);
    TS_TRY_ASSIGN(now.hashes, maker.run());
    const auto& done = maker.stats();
    stats_.entries += done.entries - 1;
    stats_.data_bytes += done.data_bytes;
    stats_.read_bytes += done.read_bytes;
    ++stats_.patched;
  } else {
    BlockHasher hasher(e.size);
    TS_TRY(send_whole(fd, e, &hasher));
    now.hashes = hasher.finish();
  }
  (void)options_.known->put(e.path, std::move(now));
  return {};
}

// Before anything of the file is read.
Result<std::optional<std::vector<Extent>>> ContentSender::written_parts(int fd, const std::optional<FileIdentity>& id,
                                                                        const std::optional<KnownFile>& known) {
  std::optional<std::vector<Extent>> all;
  if (options_.written == nullptr || !id) return all;
  options_.known->unfollow(id->inode);
  if (known && known->followed == id) return options_.written->take(fd, !options_.must_be_still);
  TS_TRY(options_.written->follow(fd));
  return all;
}

// Exactly `size` bytes whatever happens to the file: what is missing is zeros, and the file is sent again next time.
Result<> ContentSender::send_whole(int fd, Entry& e, BlockHasher* hasher) {
  TS_TRY_ASSIGN(auto extents, data_extents(fd, e.size));
  bool whole = extents.size() == 1 && extents[0].offset == 0 && extents[0].length == e.size;
  if (!whole) e.extents = extents;
  if (extents.empty() && e.size > 0) e.extents.push_back({0, 0});  // libarchive's way to say: one hole
  TS_TRY(out_.header(e));
  int64_t at = 0;
  for (const auto& x : extents) {
    TS_TRY(out_.zeros(x.offset - at));
    TS_TRY_CTX(send_extent(fd, x, hasher), printable(e.path));
    at = x.end();
  }
  return out_.zeros(e.size - at);
}

Result<> ContentSender::send_extent(int fd, Extent x, BlockHasher* hasher) {
  buffer_.resize(kReadSize);
  while (x.length > 0) {
    TS_TRY(cancel_.check());
    // As far as a whole block goes: blocks in one piece are hashed where they are.
    auto most = static_cast<int64_t>(buffer_.size()) - x.offset % kHashBlock;
    auto want = static_cast<size_t>(std::min(x.length, most));
    ssize_t n = retry_eintr([&] { return ::pread(fd, buffer_.data(), want, x.offset); });
    if (n < 0) return fail_errno(errno, "read at {}", x.offset);
    if (n == 0) return send_zeros(x, hasher);
    auto bytes = std::span(buffer_).first(static_cast<size_t>(n));
    if (hasher != nullptr) hasher->data(x.offset, bytes);
    TS_TRY(out_.data(bytes));
    stats_.data_bytes += bytes.size();
    stats_.read_bytes += bytes.size();
    x.offset += n;
    x.length -= n;
  }
  return {};
}

Result<> ContentSender::send_zeros(Extent x, BlockHasher* hasher) {
  if (hasher == nullptr) return out_.zeros(x.length);
  std::ranges::fill(buffer_, std::byte{0});
  while (x.length > 0) {
    TS_TRY(cancel_.check());
    auto bytes = std::span(buffer_).first(std::min(static_cast<size_t>(x.length), buffer_.size()));
    hasher->data(x.offset, bytes);
    TS_TRY(out_.data(bytes));
    x.offset += static_cast<int64_t>(bytes.size());
    x.length -= static_cast<int64_t>(bytes.size());
  }
  return {};
}

}  // namespace transship::storage
