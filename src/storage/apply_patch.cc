#include "storage/apply_patch.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>

#include "base/fd.h"
#include "storage/beneath.h"

namespace transship::storage {

std::unexpected<Error> hostile(std::string_view path, std::string_view why) {
  return fail(Errc::kPeerProtocol, "the source sent {}, which {}: refused", printable(path), why);
}

Result<> write_at(int fd, std::span<const std::byte> bytes, int64_t offset) {
  while (!bytes.empty()) {
    ssize_t n = retry_eintr([&] { return ::pwrite(fd, bytes.data(), bytes.size(), offset); });
    if (n < 0) return fail_errno(errno, "write {} bytes at {}", bytes.size(), offset);
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += n;
  }
  return {};
}

namespace {

class Patcher {
 public:
  Patcher(int fd, const Entry& e, ArchiveReader& in, uint64_t max_bytes, const Cancel& cancel)
      : fd_(fd), e_(e), in_(in), max_bytes_(max_bytes), cancel_(cancel) {}

  Result<uint64_t> run() {
    if (e_.patch.base_size != e_.patch.size && ::ftruncate(fd_, e_.patch.size) != 0)
      return fail_errno(errno, "set its size to {}", e_.patch.size);
    for (const auto& range : e_.patch.ranges) {
      if (range.hole)
        TS_TRY(make_hole(range));
      else
        TS_TRY(write_range(range));
    }
    if (!block_.empty()) return hostile(e_.path, "has more data than its ranges");
    TS_TRY_ASSIGN(bool more, next_block());
    if (more) return hostile(e_.path, "has more data than its ranges");
    return written_;
  }

 private:
  Result<> make_hole(const PatchRange& range) {
    TS_TRY(cancel_.check());
    constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    // The last page of a file would stay when only what is within its size became a hole.
    constexpr int64_t kBeyond = 64 << 10;
    if (range.end() == e_.patch.size && range.end() <= INT64_MAX - kBeyond &&
        ::fallocate(fd_, kPunch, range.offset, range.length + kBeyond) == 0)
      return {};
    if (::fallocate(fd_, kPunch, range.offset, range.length) == 0) return {};
    if (errno != EOPNOTSUPP && errno != ENOSYS)
      return fail_errno(errno, "make a hole of {} bytes at {}", range.length, range.offset);
    static constexpr std::array<std::byte, 64 << 10> kZeros = {};
    for (int64_t at = range.offset; at < range.end();) {
      auto n = std::min(range.end() - at, static_cast<int64_t>(kZeros.size()));
      TS_TRY(write(std::span(kZeros).first(static_cast<size_t>(n)), at));
      at += n;
    }
    return {};
  }

  Result<> write_range(const PatchRange& range) {
    for (int64_t at = range.offset; at < range.end();) {
      if (block_.empty()) {
        TS_TRY_ASSIGN(bool more, next_block());
        if (!more) return hostile(e_.path, "has less data than its ranges");
      }
      auto n = std::min(block_.size(), static_cast<size_t>(range.end() - at));
      TS_TRY(write(block_.first(n), at));
      block_ = block_.subspan(n);
      at += static_cast<int64_t>(n);
    }
    return {};
  }

  // False at the end. The data has no holes of its own.
  Result<bool> next_block() {
    while (block_.empty()) {
      TS_TRY_ASSIGN(auto block, in_.block());
      if (!block) return false;
      if (block->offset != read_) return hostile(e_.path, "leaves out some of its data");
      block_ = block->bytes;
      read_ += static_cast<int64_t>(block_.size());
    }
    return true;
  }

  Result<> write(std::span<const std::byte> bytes, int64_t offset) {
    TS_TRY(cancel_.check());
    if (bytes.size() > max_bytes_ - written_) return fail(Errc::kNoSpace, "the round is larger than it may be");
    TS_TRY(write_at(fd_, bytes, offset));
    written_ += bytes.size();
    return {};
  }

  int fd_;
  const Entry& e_;
  ArchiveReader& in_;
  const uint64_t max_bytes_;
  const Cancel& cancel_;
  std::span<const std::byte> block_;  // read and not yet written
  int64_t read_ = 0;
  uint64_t written_ = 0;
};

// O_PATH first: opening a device or a FIFO has effects.
Result<Fd> open_to_patch(int dir, const std::string& name, const Entry& e) {
  auto found = open_at(dir, name, O_PATH | O_NOFOLLOW);
  if (!found && found.error().sys_errno() == ENOENT) return hostile(e.path, "is a patch of a file that is not there");
  if (!found) return found;
  struct stat st = {};
  if (::fstat(found->get(), &st) != 0) return fail_errno(errno, "look at it");
  if (!S_ISREG(st.st_mode)) return hostile(e.path, "is a patch of something that is no plain file");
  if (st.st_size != e.patch.base_size)
    return hostile(e.path,
                   fmt::format("is a patch of a file of {} bytes, and here it has {}", e.patch.base_size, st.st_size));
  return open_file(fmt::format("/proc/self/fd/{}", found->get()), O_WRONLY);
}

}  // namespace

Result<uint64_t> apply_patch(int dir, const std::string& name, const Entry& e, ArchiveReader& in, uint64_t max_bytes,
                             const Cancel& cancel) {
  TS_TRY_ASSIGN(Fd file, open_to_patch(dir, name, e));
  return Patcher(file.get(), e, in, max_bytes, cancel).run();
}

}  // namespace transship::storage
