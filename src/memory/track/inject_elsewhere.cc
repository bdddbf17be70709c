// Processors for which leading a thread through a system call is not written.
#include "memory/track/inject.h"

namespace transship::memory {

Result<Injection> inject_userfaultfd(pid_t pid, const Cancel&, Deadline) {
  return fail(Errc::kKernelFeatureMissing, "userfaultfd for process {}: written for x86_64 processors only", pid);
}

}  // namespace transship::memory
