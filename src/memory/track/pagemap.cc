#include "memory/track/pagemap.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>

#include "memory/track/page_runs.h"
#include "memory/track/userfaultfd.h"

namespace transship::memory {
namespace {

// The kernel's (linux/fs.h); older headers lack some.
constexpr uint64_t kWritten = 1U << 1;
constexpr uint64_t kFile = 1U << 2;
constexpr uint64_t kPresent = 1U << 3;
constexpr uint64_t kSwapped = 1U << 4;
constexpr uint64_t kZeroPage = 1U << 5;
constexpr uint64_t kGuard = 1U << 8;  // from 6.14 on; EINVAL before
constexpr uint64_t kProtect = 1U << 0;
constexpr uint64_t kCheckProtectable = 1U << 1;

struct ScanArguments {  // struct pm_scan_arg
  uint64_t size, flags, start, end, walk_end, regions, regions_length, max_pages;
  uint64_t inverted, mask, any_of, reported;
};
static_assert(sizeof(ScanArguments) == 96);
constexpr unsigned long kScan = _IOWR('f', 16, ScanArguments);
static_assert(kScan == 0xc0606610);

struct Region {  // struct page_region
  uint64_t start, end, categories;
};
static_assert(sizeof(Region) == 24);
constexpr size_t kRegions = 4096;  // more does not make a scan faster

// Entries of the file itself: Documentation/admin-guide/mm/pagemap.rst.
constexpr uint64_t kEntryPresent = 1ULL << 63;
constexpr uint64_t kEntrySwapped = 1ULL << 62;
constexpr uint64_t kEntryFile = 1ULL << 61;
constexpr uint64_t kEntrySoftDirty = 1ULL << 55;

// What this kernel's PAGEMAP_SCAN knows, tried on a page of our own.
struct Support {
  bool scan = false;
  bool guard = false;
};
Support try_support() {
  alignas(kPageBytes) static const std::byte page[kPageBytes] = {};
  auto fd = open_file("/proc/self/pagemap", O_RDONLY);
  if (!fd) return {};
  auto works = [&](uint64_t categories) {
    ScanArguments a{};
    a.size = sizeof a;
    a.start = reinterpret_cast<uint64_t>(page);
    a.end = a.start + kPageBytes;
    a.mask = a.inverted = categories;
    return ::ioctl(fd->get(), kScan, &a) >= 0;
  };
  return {works(kFile), works(kGuard)};
}
const Support& support() {
  static const Support known = try_support();
  return known;
}

// What is not reported: it reads the same on the other side.
uint64_t not_written(Backing backing) { return backing == Backing::kAnonymous ? kZeroPage : kZeroPage | kFile; }

}  // namespace

struct Pagemap::Filter {
  uint64_t flags = 0;
  uint64_t inverted = 0;
  uint64_t mask = 0;
  uint64_t any_of = 0;
};

Pagemap::Pagemap(Fd fd, pid_t thread) : fd_(std::move(fd)), thread_(thread), regions_(kRegions * 3) {}

Result<Pagemap> Pagemap::open(pid_t thread) {
  auto fd = open_file(fmt::format("/proc/{}/pagemap", thread), O_RDONLY);
  if (!fd && (fd.error().sys_errno() == ENOENT || fd.error().sys_errno() == ESRCH))
    return fail(Errc::kNotFound, "process {} has ended", thread);
  if (!fd) return std::unexpected(std::move(fd).error());
  return Pagemap(std::move(*fd), thread);
}

Result<Pagemap::Walk> Pagemap::scan(const Filter& filter, uint64_t start, uint64_t end, uint64_t max_pages,
                                    std::vector<PageRange>& out) {
  auto* regions = reinterpret_cast<Region*>(regions_.data());
  uint64_t guard = support().guard ? kGuard : 0;
  ScanArguments a{};
  a.size = sizeof a;
  a.flags = filter.flags;
  a.start = start;
  a.end = end;
  a.regions = reinterpret_cast<uint64_t>(regions);
  a.regions_length = kRegions;
  a.max_pages = max_pages;
  a.inverted = filter.inverted | guard;
  a.mask = filter.mask | guard;
  a.any_of = filter.any_of;
  a.reported = filter.mask & ~filter.inverted;
  if (a.reported == 0) a.reported = filter.any_of;
  int n = ::ioctl(fd_.get(), kScan, &a);
  int error = errno;
  // On EPERM the count is lost, but what was matched before is protected already and stands in the array: it must not
  // be lost. Hence the array is all zero before a call.
  bool unregistered = n < 0 && error == EPERM;
  size_t count = n < 0 ? 0 : static_cast<size_t>(n);
  while (unregistered && count < kRegions && regions[count].end != 0) ++count;
  for (const Region& r : std::span(regions, count)) append_range(out, r.start, (r.end - r.start) / kPageBytes);
  std::fill_n(regions_.begin(), count * 3, 0);
  if (unregistered) return Walk{start, true};
  if (n < 0 && error == ESRCH) return fail(Errc::kNotFound, "process {} has ended, or runs another program", thread_);
  if (n < 0) return fail_errno(error, "scan {:x}-{:x} of process {}", start, end, thread_);
  return Walk{a.walk_end > start ? a.walk_end : end, false};
}

Result<Pagemap::Walk> Pagemap::take_written(uint64_t start, uint64_t end, Backing backing, uint64_t max_pages,
                                            std::vector<PageRange>& out) {
  // Without the categories beside kWritten, holes would count as written and get page tables full of marks.
  const uint64_t other = not_written(backing);
  return scan({kProtect | kCheckProtectable, other, kWritten | other, kPresent | kSwapped}, start, end, max_pages, out);
}

Result<Pagemap::Walk> Pagemap::written(uint64_t start, uint64_t end, Backing backing, uint64_t max_pages,
                                       std::vector<PageRange>& out) {
  const uint64_t other = not_written(backing);
  return scan({kCheckProtectable, other, kWritten | other, kPresent | kSwapped}, start, end, max_pages, out);
}

Result<Pagemap::Walk> Pagemap::dropped(uint64_t start, uint64_t end, uint64_t max_pages, std::vector<PageRange>& out) {
  return scan({0, kWritten, kWritten | kSwapped, kSwapped}, start, end, max_pages, out);
}

Result<Pagemap::Walk> Pagemap::unwritten(uint64_t start, uint64_t end, uint64_t max_pages,
                                         std::vector<PageRange>& out) {
  constexpr uint64_t kNot = kZeroPage | kFile | kWritten;
  return scan({0, kNot, kNot, kPresent}, start, end, max_pages, out);
}

Result<Pagemap::Walk> Pagemap::populated(uint64_t start, uint64_t end, Backing backing, uint64_t max_pages,
                                         std::vector<PageRange>& out) {
  const uint64_t other = not_written(backing);
  if (!support().scan) return populated_by_entries(start, end, max_pages, out);
  return scan({0, other, other, kPresent | kSwapped}, start, end, max_pages, out);
}

Result<Pagemap::Walk> Pagemap::populated_by_entries(uint64_t start, uint64_t end, uint64_t max_pages,
                                                    std::vector<PageRange>& out) {
  return by_entries(0, start, end, max_pages, out);
}

Result<Pagemap::Walk> Pagemap::soft_dirty(uint64_t start, uint64_t end, uint64_t max_pages,
                                          std::vector<PageRange>& out) {
  return by_entries(kEntrySoftDirty, start, end, max_pages, out);
}

// Zero pages cannot be told here; they are reported, and cost a little.
Result<Pagemap::Walk> Pagemap::by_entries(uint64_t wanted, uint64_t start, uint64_t end, uint64_t max_pages,
                                          std::vector<PageRange>& out) {
  std::span<uint64_t> entries(regions_);
  uint64_t found = 0;
  uint64_t at = start;
  while (at < end && found < max_pages) {
    uint64_t ask = std::min<uint64_t>((end - at) / kPageBytes, entries.size());
    auto offset = static_cast<off_t>(at / kPageBytes * sizeof(uint64_t));
    ssize_t n = retry_eintr([&] { return ::pread(fd_.get(), entries.data(), ask * sizeof(uint64_t), offset); });
    if (n < 0) return fail_errno(errno, "read the pagemap of process {}", thread_);
    if (n == 0) break;  // the address space has ended, or the process has
    uint64_t got = static_cast<uint64_t>(n) / sizeof(uint64_t);
    for (uint64_t i = 0; i < got; ++i) {
      uint64_t entry = entries[i];
      bool there = (entry & (kEntryPresent | kEntrySwapped)) != 0 && (entry & kEntryFile) == 0;
      if (!there || (entry & wanted) != wanted) continue;
      append_range(out, at + i * kPageBytes, 1);
      ++found;
    }
    at += got * kPageBytes;
  }
  std::ranges::fill(regions_, 0);
  return Walk{found < max_pages ? end : at, false};
}

Result<> clear_soft_dirty(pid_t thread) {
  std::string path = fmt::format("/proc/{}/clear_refs", thread);
  TS_TRY_ASSIGN(Fd fd, open_file(path, O_WRONLY));
  constexpr std::string_view kSoftDirty = "4";
  if (::write(fd.get(), kSoftDirty.data(), kSoftDirty.size()) < 0) return fail_errno(errno, "write 4 to {}", path);
  return {};
}

Result<> probe_pagemap_scan() {
  if (!support().scan)
    return fail(Errc::kKernelFeatureMissing, "the kernel has no PAGEMAP_SCAN: it came with Linux 6.7");
  Fd uffd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY)));
  if (!uffd.valid()) return fail_errno(errno, "make a userfaultfd");
  return enable_write_protection(uffd.get());
}

Result<> probe_soft_dirty() {
  void* page = ::mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return fail_errno(errno, "map a page");
  auto* word = static_cast<volatile char*>(page);
  auto at = reinterpret_cast<uint64_t>(page);
  auto look = [&]() -> Result<bool> {
    TS_TRY_ASSIGN(Pagemap self, Pagemap::open(::getpid()));
    std::vector<PageRange> found;
    TS_TRY(self.soft_dirty(at, at + kPageBytes, 1, found));
    return !found.empty();
  };
  auto probe = [&]() -> Result<> {
    *word = 1;
    TS_TRY(clear_soft_dirty(::getpid()));
    TS_TRY_ASSIGN(bool still, look());
    *word = 2;
    TS_TRY_ASSIGN(bool dirty, look());
    if (still || !dirty) return fail(Errc::kKernelFeatureMissing, "the kernel keeps no soft-dirty bits");
    return {};
  };
  auto result = probe();
  (void)::munmap(page, kPageBytes);
  return result;
}

}  // namespace transship::memory
