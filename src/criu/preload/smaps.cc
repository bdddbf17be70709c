// libtransship-criu.so: what CRIU is started with (LD_PRELOAD) so that the tasks stand still for a shorter time. Two of
// its looks at a process cost time for every page there is: here the one at /proc/PID/smaps, of which it wants the
// flags of mappings and the kernel counts all pages for it (20 ms for a GiB); in scan.cc the other.
//
// Loaded into somebody else's program: C library calls only, errno as the caller had it. Where anything is not as
// expected CRIU gets what it would get without us.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdlib>
#include <cstring>

#include "criu/preload/mapping_flags.h"
#include "criu/preload/process_of.h"
#include "criu/preload/report.h"
#include "criu/preload/scan.h"

namespace {

using transship::criu_preload::kLayoutVariable;
using transship::criu_preload::process_of;
using transship::criu_preload::report;

bool ready = false;

int do_openat(int dir, const char* path, int flags, mode_t mode) {
  return static_cast<int>(::syscall(SYS_openat, dir, path, flags, mode));
}

int open_smaps(int dir) {
  int pid = process_of(dir, nullptr);
  if (pid == 0) return -1;
  // The mappings that are told must be those of this file: no other process is mistaken for it.
  int maps = do_openat(dir, "maps", O_RDONLY | O_CLOEXEC, 0);
  if (maps < 0) return -1;
  int made = transship::criu_preload::make_smaps(maps, pid);
  (void)::close(maps);
  return made;
}

int on_open(int dir, const char* path, int flags, mode_t mode) {
  if (!ready || dir < 0 || std::strcmp(path, "smaps") != 0) return do_openat(dir, path, flags, mode);
  int before = errno;
  int made = open_smaps(dir);
  errno = before;
  if (made < 0) return do_openat(dir, path, flags, mode);
  ++report().mappings;
  return made;
}

mode_t mode_of(int flags, va_list list) {
  bool given = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
  return given ? va_arg(list, mode_t) : 0;
}

// We are the first in LD_PRELOAD (criu/shortcuts.cc). The programs that CRIU starts while tasks stand still, such as
// `tar`, are to find what there was before us: they would try all of this as well, and some let nobody be loaded before
// themselves.
void leave_environment() {
  (void)::unsetenv(kLayoutVariable);
  const char* loaded = ::getenv("LD_PRELOAD");
  const char* own = loaded == nullptr ? nullptr : std::strstr(loaded, "libtransship-criu.so");
  if (own == nullptr) return;
  const char* others = std::strchr(loaded, ':');
  if (others == nullptr)
    (void)::unsetenv("LD_PRELOAD");
  else if (own < others)
    (void)::setenv("LD_PRELOAD", others + 1, 1);
}

__attribute__((constructor)) void prepare() {
  transship::criu_preload::open_report();
  ready = transship::criu_preload::prepare_mapping_flags(::getenv(kLayoutVariable));
  report().can_mappings = ready ? 1 : 0;
  report().can_scans = transship::criu_preload::can_narrow_scans() ? 1 : 0;
  leave_environment();
}

}  // namespace

extern "C" int openat64(int dir, const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  auto mode = mode_of(flags, list);
  va_end(list);
  return on_open(dir, path, flags, mode);
}

// Where off_t has 64 bits they are the same call.
extern "C" int openat(int dir, const char* path, int flags, ...) __attribute__((alias("openat64")));
