// A userfaultfd of somebody else's memory: made by one system call that a thread of the process is led to run, fetched
// with pidfd_getfd and closed in the process again.
//
// The process keeps nothing: no descriptor, no mapping, no changed register, signal mask or memory. One of its threads
// stops for 25 to 500 µs, the others run on. What a program can see of it is what it sees of SIGSTOP and SIGCONT: a few
// calls (epoll_wait, recv with a timeout, sigtimedwait, semtimedop; signal(7) lists them) return EINTR.
//
// The kernel lets a traced thread go as it stands when its tracer is killed, and with our registers it would go on
// behind a system call that it never made. So the tracer is a process of its own (sys/apart.h), which the end of ours
// does not touch. What is left: whoever kills that one too in those 10 µs; and when another thread of the target forks
// while the descriptor exists, the child has a copy of it until it executes something (O_CLOEXEC).
#pragma once
#include <sys/types.h>

#include <chrono>

#include "base/cancel.h"
#include "base/fd.h"
#include "base/result.h"

namespace transship::memory {

struct Injection {
  Fd uffd;                                // of the target's address space; UFFDIO_API is still to be done
  pid_t thread = 0;                       // that was stopped
  std::chrono::microseconds stopped{0};   // how long it stood still
  std::chrono::microseconds attempts{0};  // the whole of it, looking for a thread that can be stopped included
};

// Thread-safe for different processes. `pid` as this host sees it; the caller needs CAP_SYS_PTRACE over it. Do not call
// it for a process whose cgroup is frozen: its threads cannot run the call (kTimeout).
//   kNotFound              the process has ended
//   kRefused               somebody traces it already, or a security module says no
//   kTimeout               none of its threads could be stopped (in vfork, or waiting for a device): try later
//   kNoSpace               it has no free descriptor, not even above its soft limit
//   kKernelFeatureMissing  another processor than x86_64, a 32-bit process, system calls it dispatches itself
Result<Injection> inject_userfaultfd(pid_t pid, const Cancel& cancel, Deadline deadline);

}  // namespace transship::memory
