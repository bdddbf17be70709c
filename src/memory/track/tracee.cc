#include "memory/track/tracee.h"

#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <thread>

#include "base/fd.h"
#include "base/log.h"
#include "sys/file.h"
#include "sys/proc_text.h"

namespace transship::memory {
namespace {

using std::chrono::microseconds;

// Older C libraries lack some of these; the values are the kernel's.
constexpr int kGetSignalMask = 0x420a;
constexpr int kSetSignalMask = 0x420b;
constexpr int kGetRseqConfiguration = 0x420f;
constexpr int kGetSyscallDispatch = 0x4211;
constexpr int kStopEvent = 128;
constexpr int kSyscallStop = SIGTRAP | 0x80;
constexpr uint64_t kSyscallSpin = 300;  // µs: system calls and stops are shorter, a sleep would be longer
constexpr milliseconds kRestorePatience{5'000};

struct RseqConfiguration {
  uint64_t area;
  uint32_t size;
  uint32_t signature;
  uint32_t flags;
  uint32_t padding;
};
static_assert(sizeof(RseqConfiguration) == 24);

struct SyscallDispatch {
  uint64_t mode;
  uint64_t selector;
  uint64_t offset;
  uint64_t length;
};
static_assert(sizeof(SyscallDispatch) == 32);

long ptrace_call(int request, pid_t thread, uint64_t address, uint64_t data) {
  // The C library's declaration wants its own enum; the kernel takes numbers.
  return ::syscall(SYS_ptrace, request, thread, address, data);
}
template <class T>
long ptrace_call(int request, pid_t thread, uint64_t address, T* data) {
  return ptrace_call(request, thread, address, reinterpret_cast<uint64_t>(data));
}

int event_of(int status) { return status >> 16; }

template <class T>
bool read_remote(pid_t process, uint64_t address, T& value) {
  iovec local{&value, sizeof value};
  iovec remote{reinterpret_cast<void*>(address), sizeof value};  // NOLINT(performance-no-int-to-ptr)
  return ::process_vm_readv(process, &local, 1, &remote, 1, 0) == static_cast<ssize_t>(sizeof value);
}

bool has_seccomp(pid_t process, pid_t thread) {
  auto status = sys::read_file(fmt::format("/proc/{}/task/{}/status", process, thread), 65536);
  return status && sys::leading_number(sys::parse_fields(*status)["Seccomp"]) != 0;
}

// A thread in the middle of a restartable sequence (rseq(2)) would, led elsewhere and back, no longer be seen as
// interrupted: the kernel forgets the sequence as soon as it sees the thread outside of it.
bool in_restartable_sequence(pid_t process, pid_t thread, uint64_t instruction) {
  struct Sequence {  // struct rseq_cs
    uint32_t version, flags;
    uint64_t start, length, abort;
  };
  RseqConfiguration area{};
  uint64_t current = 0;
  Sequence sequence{};
  if (ptrace_call(kGetRseqConfiguration, thread, sizeof area, &area) != static_cast<long>(sizeof area)) return false;
  constexpr uint64_t kOffset = 8;  // of rseq_cs in struct rseq
  if (area.area == 0 || !read_remote(process, area.area + kOffset, current) || current == 0) return false;
  return read_remote(process, current, sequence) && instruction - sequence.start < sequence.length;
}

bool dispatches_system_calls(pid_t thread) {
  SyscallDispatch dispatch{};
  return ptrace_call(kGetSyscallDispatch, thread, sizeof dispatch, &dispatch) == 0 && dispatch.mode != 0;
}

}  // namespace

// Nothing tells by a descriptor that a tracee has stopped, and a blocking wait has no deadline.
Result<> Tracee::wait_stop(int& status, Deadline deadline) const {
  auto spin_until = Clock::now() + microseconds(kSyscallSpin);
  for (milliseconds::rep nap = 50;;) {
    pid_t r = ::waitpid(thread_, &status, __WALL | WNOHANG);
    if (r == thread_ && WIFSTOPPED(status)) return {};
    // A first thread of which another one has taken the place by execve() is not even reported.
    if (r == thread_ || (r < 0 && errno == ECHILD))
      return fail(Errc::kNotFound, "thread {} of process {} has ended", thread_, process_);
    if (r < 0 && errno != EINTR) return fail_errno(errno, "wait for thread {} of process {}", thread_, process_);
    if (deadline.passed())
      return fail(Errc::kTimeout, "thread {} of process {} did not stop in time", thread_, process_);
    if (Clock::now() < spin_until) {
      ::sched_yield();
    } else {
      std::this_thread::sleep_for(microseconds(nap));
      nap = std::min<milliseconds::rep>(nap * 2, 1000);
    }
  }
}

// On the way signals are delivered as if nobody traced: a stop for a signal comes before ours.
Result<> Tracee::reach_event_stop(Deadline deadline) {
  while (true) {
    int status = 0;
    TS_TRY(wait_stop(status, deadline));
    if (event_of(status) == kStopEvent) return {};
    int signal = WSTOPSIG(status);
    bool syscall_stop = signal == kSyscallStop || state_ == State::kChanged;
    // With all signals blocked only SIGKILL and SIGSTOP come, and neither stops here.
    if (ptrace_call(PTRACE_CONT, thread_, 0, syscall_stop ? 0U : static_cast<uint64_t>(signal)) < 0)
      return fail_errno(errno, "continue thread {} of process {}", thread_, process_);
  }
}

Result<> Tracee::stop(Deadline deadline) {
  uint64_t options = PTRACE_O_TRACESYSGOOD;
  if (has_seccomp(process_, thread_)) options |= PTRACE_O_SUSPEND_SECCOMP;
  if (ptrace_call(PTRACE_SEIZE, thread_, 0, options) < 0)
    return fail_errno(errno, "trace thread {} of process {}", thread_, process_);
  state_ = State::kSeized;
  if (ptrace_call(PTRACE_INTERRUPT, thread_, 0, 0U) < 0)
    return fail_errno(errno, "interrupt thread {} of process {}", thread_, process_);
  TS_TRY(reach_event_stop(deadline));
  since_ = Clock::now();
  state_ = State::kStopped;
  return save();
}

Result<> Tracee::save() {
  if (ptrace_call(PTRACE_GETREGS, thread_, 0, &registers_) < 0 ||
      ptrace_call(kGetSignalMask, thread_, sizeof signals_, &signals_) < 0)
    return fail_errno(errno, "read the registers of thread {} of process {}", thread_, process_);
  return {};
}

Result<> Tracee::check_state() const {
  constexpr uint64_t kUserCode64 = 0x33;
  if (registers_.cs != kUserCode64)
    return fail(Errc::kKernelFeatureMissing, "process {} runs 32-bit code, which cannot be tracked", process_);
  if (dispatches_system_calls(thread_))
    return fail(Errc::kKernelFeatureMissing,
                "process {} dispatches its own system calls (PR_SET_SYSCALL_USER_DISPATCH)", process_);
  if (in_restartable_sequence(process_, thread_, registers_.rip))
    return fail(Errc::kUnavailable, "thread {} of process {} is in a restartable sequence", thread_, process_);
  return {};
}

Result<long> Tracee::run(uint64_t instruction, long number, long argument, Deadline deadline) {
  TS_CHECK(state_ == State::kStopped || state_ == State::kChanged);
  uint64_t all = ~0ULL;
  user_regs_struct changed = registers_;
  changed.rip = instruction;
  changed.rax = static_cast<uint64_t>(number);
  changed.orig_rax = ~0ULL;  // not in a system call: nothing of it is to be restarted
  changed.rdi = static_cast<uint64_t>(argument);
  changed.rsi = changed.rdx = changed.r10 = changed.r8 = changed.r9 = 0;
  state_ = State::kChanged;
  if (ptrace_call(kSetSignalMask, thread_, sizeof all, &all) < 0 ||
      ptrace_call(PTRACE_SETREGS, thread_, 0, &changed) < 0)
    return fail_errno(errno, "set the registers of thread {} of process {}", thread_, process_);
  for (int stops = 0; stops < 2;) {
    if (ptrace_call(PTRACE_SYSCALL, thread_, 0, 0U) < 0)
      return fail_errno(errno, "continue thread {} of process {}", thread_, process_);
    int status = 0;
    TS_TRY(wait_stop(status, deadline));
    if (WSTOPSIG(status) == kSyscallStop) ++stops;  // anything else is a group stop, over before it began
  }
  if (ptrace_call(PTRACE_GETREGS, thread_, 0, &changed) < 0)
    return fail_errno(errno, "read the registers of thread {} of process {}", thread_, process_);
  return static_cast<long>(changed.rax);
}

void Tracee::release() {
  if (state_ == State::kFree) return;
  if (state_ == State::kChanged) {
    // Put back in a stop of this kind, the registers also make the kernel restart what we interrupted; in the stop
    // behind a system call they would hand -ERESTARTSYS to the program. It also works for a thread that we lost sight
    // of.
    (void)ptrace_call(PTRACE_INTERRUPT, thread_, 0, 0U);
    (void)ptrace_call(PTRACE_CONT, thread_, 0, 0U);
    auto there = reach_event_stop(Deadline::in(kRestorePatience));
    bool gone = !there && there.error().code() == Errc::kNotFound;
    if (!gone && (!there || ptrace_call(PTRACE_SETREGS, thread_, 0, &registers_) < 0 ||
                  ptrace_call(kSetSignalMask, thread_, sizeof signals_, &signals_) < 0))
      TS_LOG_ERROR("registers of thread {} of process {} could not be put back: {}", thread_, process_,
                   there ? errno_text(errno) : there.error().message());
  }
  // Not stopped (kSeized): this fails, and the end of the calling thread lets go of it.
  (void)ptrace_call(PTRACE_DETACH, thread_, 0, 0U);
  if (state_ != State::kSeized) stopped_ = std::chrono::duration_cast<microseconds>(Clock::now() - since_);
  state_ = State::kFree;
}

}  // namespace transship::memory
