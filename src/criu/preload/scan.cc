// CRIU's question which pages a mapping has.
//
// It asks the kernel which of them are neither of a file nor the zero page. To know the former the
// kernel looks at the description of every page: a cache miss each, 13 to 30 ms for a GiB while the tasks stand still.
// A private anonymous mapping has no pages of files, so nothing changes when that is not asked there, but for 3 ms for
// a GiB. Whatever is not surely such a mapping is asked as ever.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>

#include "criu/preload/process_of.h"
#include "criu/preload/report.h"
#include "criu/preload/scan.h"

namespace {

// Below, the question costs as much as the look.
constexpr unsigned long kWorthAsking = 1UL << 20;

int do_ioctl(int fd, unsigned long request, void* argument) {
  return static_cast<int>(::syscall(SYS_ioctl, fd, request, argument));
}

// /proc/PID/maps of the process that `pagemap` is of; -1: not to be told.
int open_maps(int pagemap) {
  int pid = transship::criu_preload::process_of(pagemap, "pagemap");
  if (pid == 0) return -1;
  char path[64];
  // Its /proc may be of another namespace than the one we see.
  (void)std::snprintf(path, sizeof path, "/proc/%d/pagemap", pid);
  struct stat theirs{}, ours{};
  if (::fstat(pagemap, &theirs) < 0 || ::stat(path, &ours) < 0 || theirs.st_ino != ours.st_ino ||
      theirs.st_dev != ours.st_dev)
    return -1;
  (void)std::snprintf(path, sizeof path, "/proc/%d/maps", pid);
  return ::open(path, O_RDONLY | O_CLOEXEC);
}

bool private_anonymous(int pagemap, unsigned long start, unsigned long end) {
#ifdef PROCMAP_QUERY
  int maps = open_maps(pagemap);
  if (maps < 0) return false;
  procmap_query q{};
  q.size = sizeof q;
  q.query_addr = start;
  bool known = do_ioctl(maps, PROCMAP_QUERY, &q) == 0;  // from Linux 6.11 on
  (void)::close(maps);
  return known && q.vma_start <= start && end <= q.vma_end && (q.vma_flags & PROCMAP_QUERY_VMA_SHARED) == 0 &&
         q.inode == 0 && q.dev_major == 0 && q.dev_minor == 0;
#else
  return (void)pagemap, (void)start, (void)end, false;
#endif
}

int narrow_scan(int fd, pm_scan_arg* scan) {
  constexpr auto kFile = static_cast<decltype(scan->category_mask)>(PAGE_IS_FILE);
  bool asks = (scan->category_mask & scan->category_inverted & kFile) != 0 && (scan->return_mask & kFile) == 0 &&
              (scan->category_anyof_mask & kFile) == 0;
  if (!asks || scan->end - scan->start < kWorthAsking) return do_ioctl(fd, PAGEMAP_SCAN, scan);
  int before = errno;
  bool narrow = private_anonymous(fd, scan->start, scan->end);
  errno = before;
  if (!narrow) return do_ioctl(fd, PAGEMAP_SCAN, scan);
  ++transship::criu_preload::report().scans;
  pm_scan_arg ours = *scan;
  ours.category_mask &= ~kFile;
  ours.category_inverted &= ~kFile;
  int result = do_ioctl(fd, PAGEMAP_SCAN, &ours);
  scan->walk_end = ours.walk_end;
  return result;
}

}  // namespace

namespace transship::criu_preload {

// With a page of our own, as CRIU asks for those of others.
bool can_narrow_scans() {
  constexpr unsigned long kPage = 4096;
  void* page = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return false;
  char path[64];
  (void)std::snprintf(path, sizeof path, "/proc/%d/pagemap", static_cast<int>(::getpid()));
  int pagemap = ::open(path, O_RDONLY | O_CLOEXEC);
  auto start = reinterpret_cast<unsigned long>(page);
  bool can = pagemap >= 0 && private_anonymous(pagemap, start, start + kPage);
  if (pagemap >= 0) (void)::close(pagemap);
  (void)::munmap(page, kPage);
  return can;
}

}  // namespace transship::criu_preload

extern "C" int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list list;
  va_start(list, request);
  void* argument = va_arg(list, void*);
  va_end(list);
  if (request == PAGEMAP_SCAN && argument != nullptr) return narrow_scan(fd, static_cast<pm_scan_arg*>(argument));
  return do_ioctl(fd, request, argument);
}
