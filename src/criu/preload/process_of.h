// Of which process CRIU is asking: it has only a descriptor.
#pragma once

namespace transship::criu_preload {

// The PID of /proc/PID (`file` null), or of /proc/PID/`file`, that `fd` is open at, as whoever mounted that /proc
// counts. 0: it is something else.
int process_of(int fd, const char* file);

}  // namespace transship::criu_preload
