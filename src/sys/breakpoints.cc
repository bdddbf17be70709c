#include "sys/breakpoints.h"

#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace transship::sys {

Fd hold_breakpoints() {
  perf_event_attr attr{};
  attr.type = PERF_TYPE_SOFTWARE;
  attr.size = sizeof attr;
  attr.config = PERF_COUNT_SW_DUMMY;
  attr.disabled = 1;
  return Fd(static_cast<int>(::syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC)));
}

}  // namespace transship::sys
