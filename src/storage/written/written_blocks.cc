#include "storage/written/written_blocks.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <limits>

#include "base/fd.h"
#include "sys/file.h"

namespace transship::storage {
namespace {

constexpr auto kRemedy = "nothing to do: large files are read whole in each round instead, and the gap grows with them";

// The kernel makes no larger ones: of 2 MiB with pages of 4 KiB.
uint64_t largest_folio() {
  auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  constexpr uint64_t kAlways = 256, kMost = 2048;  // pages
  uint64_t huge = 0;
  if (auto text = sys::read_file("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"))
    huge = std::strtoull(text->c_str(), nullptr, 10);
  return std::clamp(huge, page * kAlways, page * kMost);
}

// The pages of such a file of ext4 are cleaned by the journal, when it likes.
bool journals_data(int fd, dev_t device) {
  int flags = 0;
  if (::ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 && (flags & FS_JOURNAL_DATA_FL) != 0) return true;
  std::error_code error;
  auto name =
      std::filesystem::read_symlink(fmt::format("/sys/dev/block/{}:{}", ::major(device), ::minor(device)), error);
  if (error) return true;
  auto options = sys::read_file(fmt::format("/proc/fs/ext4/{}/options", name.filename().string()));
  if (!options) return false;  // the driver of ext2 has none, and no journal
  return options->contains("data=journal");
}

bool is_btrfs(int fd) {
  struct statfs fs{};
  return ::fstatfs(fd, &fs) == 0 && static_cast<uint32_t>(fs.f_type) == BTRFS_SUPER_MAGIC;
}

// Waiting before and after is what makes the kernel write all pages, and not only those that are convenient: a page
// that stays dirty fires no event when it is written next.
//
// False: pages could not be written, or a direct write found pages in memory that it could not drop; that is told once,
// and nothing is written then. So once more, and nobody knows what the file has in it after that but who reads it.
Result<bool> write_dirty_pages(int fd) {
  constexpr unsigned kAll = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
  constexpr int kTries = 5;
  int error = 0;
  for (int i = 0; i < kTries; ++i) {
    if (retry_eintr([&] { return ::sync_file_range(fd, 0, 0, kAll); }) == 0) {
      if (error != 0) (void)::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);  // what the disk has is what counts
      return error == 0;
    }
    error = errno;
    if (error != EIO && error != ENOSPC) break;
  }
  return fail_errno(error, "cannot have a file's dirty pages written out");
}

Result<struct stat> status(int fd) {
  struct stat st{};
  if (::fstat(fd, &st) < 0) return fail_errno(errno, "cannot look at a file that is followed");
  return st;
}

}  // namespace

WrittenBlocks::WrittenBlocks(std::unique_ptr<WriteEvents> events)
    : events_(std::move(events)), largest_folio_(largest_folio() / kBlock) {}

Result<std::unique_ptr<WrittenBlocks>> WrittenBlocks::create(const WriteEvents::Options& options) {
  auto events = WriteEvents::create(options);
  if (!events)
    return std::unexpected(
        std::move(events).error().context("cannot follow which blocks of files are written").with_remedy(kRemedy));
  return std::unique_ptr<WrittenBlocks>(new WrittenBlocks(std::move(*events)));
}

bool WrittenBlocks::serves(int fd) const {
  struct statfs fs{};
  struct statx st{};
  if (::fstatfs(fd, &fs) < 0 || ::statx(fd, "", AT_EMPTY_PATH, STATX_TYPE, &st) < 0) return false;
  if (!S_ISREG(st.stx_mode) || (st.stx_attributes & STATX_ATTR_DAX) != 0) return false;
  switch (static_cast<uint32_t>(fs.f_type)) {
    case EXT4_SUPER_MAGIC: return !journals_data(fd, ::makedev(st.stx_dev_major, st.stx_dev_minor));
    case XFS_SUPER_MAGIC: return true;
    // It keeps parts of a page dirty by themselves when its blocks are smaller.
    case BTRFS_SUPER_MAGIC: return fs.f_bsize == ::sysconf(_SC_PAGESIZE);
    default: return false;
  }
}

Result<> WrittenBlocks::follow(int fd) {
  TS_TRY_ASSIGN(auto st, status(fd));
  auto [at, fresh] = files_.try_emplace({st.st_ino, st.st_dev});
  if (!fresh) return {};
  auto done = events_->follow(st.st_ino);
  if (done) {
    auto looked = look(fd, at->second, true);
    if (looked) return {};
    done = std::unexpected(std::move(looked).error());
  }
  forget(st.st_dev, st.st_ino);
  return done;
}

void WrittenBlocks::forget(dev_t device, ino_t inode) {
  files_.erase({inode, device});
  auto other = files_.lower_bound({inode, 0});
  if (other == files_.end() || other->first.first != inode) events_->forget(inode);
}

Result<std::optional<std::vector<Extent>>> WrittenBlocks::take(int fd, bool settle) {
  TS_TRY_ASSIGN(auto st, status(fd));
  auto found = files_.find({st.st_ino, st.st_dev});
  if (found == files_.end()) return fail(Errc::kNotFound, "inode {} is not followed", st.st_ino);
  auto& file = found->second;
  TS_TRY(gather());
  bool known = std::exchange(file.known, false);  // should we fail below, it is not
  auto ranges = std::exchange(file.written, {});
  auto before = std::exchange(file.extents, {});
  auto old_size = file.size;
  TS_TRY_ASSIGN(bool clean, look(fd, file, settle));
  file.known = settle;
  if (!known || !clean) return std::nullopt;
  auto moved = moved_ranges(before, file.extents, std::min(file.size, old_size));
  ranges.insert(ranges.end(), moved.begin(), moved.end());
  if (file.size > old_size)
    ranges.push_back({.offset = static_cast<int64_t>(old_size), .length = static_cast<int64_t>(file.size - old_size)});
  return merge_ranges(std::move(ranges), file.size);
}

// False: as write_dirty_pages() has it. The size is looked at before the places: what is appended in between is past
// it, and told by the next take().
Result<bool> WrittenBlocks::look(int fd, File& file, bool settle) const {
  bool clean = true;
  if (settle) {
    TS_TRY_ASSIGN(clean, write_dirty_pages(fd));
  }
  TS_TRY_ASSIGN(auto st, status(fd));
  file.size = static_cast<uint64_t>(st.st_size);
  // btrfs has threads that compress pages before they are cleaned, and give them their place after they are written;
  // only this waits for both.
  TS_TRY_ASSIGN(file.extents, read_extent_map(fd, file.size, settle && is_btrfs(fd)));
  file.known = true;
  return clean;
}

// Events of all files, to each its own. After a loss nothing is known of any.
Result<> WrittenBlocks::gather() {
  std::vector<WriteEvent> events;
  auto drained = events_->drain(events);
  auto lost = events_->lost();
  if (!drained || !lost || *lost != lost_) {
    for (auto& [id, file] : files_) file.known = false;
  }
  for (const auto& event : events) {
    for (auto at = files_.lower_bound({event.inode, 0}); at != files_.end() && at->first.first == event.inode; ++at)
      note(at->second, event);
  }
  TS_TRY(drained);
  TS_TRY_ASSIGN(lost_, lost);
  return {};
}

void WrittenBlocks::note(File& file, const WriteEvent& event) const {
  uint64_t count = event.count;
  if (count == 0) {  // a folio is as aligned as it is large
    uint64_t aligned = event.first & (~event.first + 1);
    count = aligned == 0 ? largest_folio_ : std::min(aligned, largest_folio_);
  }
  constexpr uint64_t kMost = static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) / kBlock;
  uint64_t first = std::min(event.first, kMost), last = std::min(first + std::min(count, kMost), kMost);
  file.written.push_back(
      {.offset = static_cast<int64_t>(first * kBlock), .length = static_cast<int64_t>((last - first) * kBlock)});
  constexpr size_t kFew = 4096;
  if (file.written.size() < kFew + 2 * file.merged) return;  // nobody may take() this one for long
  file.written = merge_ranges(std::move(file.written), std::numeric_limits<int64_t>::max());
  file.merged = file.written.size();
}

}  // namespace transship::storage
