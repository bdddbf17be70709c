// Loaded into somebody else's program: C library calls only.
#include "criu/preload/report.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

// By this name for the tests.
extern "C" {
transship::criu_preload::Report transship_own_report{};
transship::criu_preload::Report* transship_criu_report = &transship_own_report;
}

namespace transship::criu_preload {

Report& report() { return *transship_criu_report; }

void open_report() {
  const char* path = ::getenv(kReportVariable);
  if (path == nullptr) return;
  int fd = ::open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  (void)::unsetenv(kReportVariable);  // not for the programs that CRIU starts
  if (fd < 0) return;
  // A file that is too short would end CRIU at the first number.
  if (::lseek(fd, 0, SEEK_END) >= static_cast<off_t>(sizeof(Report))) {
    void* shared = ::mmap(nullptr, sizeof(Report), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared != MAP_FAILED) transship_criu_report = static_cast<Report*>(shared);
  }
  (void)::close(fd);
}

}  // namespace transship::criu_preload
