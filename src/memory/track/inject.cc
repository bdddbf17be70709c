#include "memory/track/inject.h"

#include <linux/userfaultfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>

#include "base/log.h"
#include "base/text.h"
#include "memory/track/address_space.h"
#include "memory/track/tracee.h"
#include "sys/apart.h"
#include "sys/file.h"
#include "sys/process.h"

namespace transship::memory {
namespace {

using std::chrono::microseconds;

// A thread in vfork stops only when its child has gone on; others stop within some 100 µs, on a busy host within 10 ms.
constexpr milliseconds kPerThread{200};
constexpr milliseconds kPerSleeper{20};
// Two system calls that wait for nothing, on a processor that somebody else may have.
constexpr milliseconds kPerCall{2'000};
constexpr size_t kMaxThreadsTried = 64;
constexpr int kSequenceRetries = 5;
constexpr int kHighestPriority = -20;
// Longer than all the waits in one attempt.
constexpr unsigned kEndsInSeconds = 30;

struct Candidate {
  pid_t thread = 0;
  bool sleeps_deeply = false;  // state D: in vfork, or waiting for a device
};

// 'S', 'R', 'D', 'Z'… of /proc/…/stat; the name before it may hold anything, ')' too.
char state_in(std::string_view stat) {
  auto end = stat.rfind(')');
  return end == std::string_view::npos || end + 2 >= stat.size() ? '?' : stat[end + 2];
}

Result<std::vector<Candidate>> candidates_of(pid_t process) {
  std::vector<Candidate> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(fmt::format("/proc/{}/task", process), error)) {
    auto thread = parse_u64(entry.path().filename().string(), "a thread's number");
    auto stat = sys::read_file(entry.path().string() + "/stat", 4096);
    if (!thread || !stat) continue;
    char state = state_in(*stat);
    if (state != 'Z' && state != 'X') found.push_back({static_cast<pid_t>(*thread), state == 'D'});
  }
  if (found.empty()) return fail(Errc::kNotFound, "process {} has ended", process);
  std::ranges::stable_sort(found, {}, &Candidate::sleeps_deeply);
  if (found.size() > kMaxThreadsTried) found.resize(kMaxThreadsTried);
  return found;
}

// Address of a system call instruction that is there already: nothing is written into the process. The vDSO has some.
Result<uint64_t> find_syscall_instruction(pid_t process) {
  TS_TRY_ASSIGN(std::vector<Vma> vmas, read_vmas(process));
  auto vdso = std::ranges::find(vmas, "[vdso]", &Vma::path);
  // Or not yet: the kernel is just loading another program into it.
  if (vdso == vmas.end()) return fail(Errc::kUnavailable, "process {} has no vDSO", process);
  constexpr size_t kMaxVdso = 65536;
  std::string code(std::min<size_t>(vdso->bytes(), kMaxVdso), '\0');
  iovec local{code.data(), code.size()};
  iovec remote{reinterpret_cast<void*>(vdso->start), code.size()};  // NOLINT(performance-no-int-to-ptr)
  if (::process_vm_readv(process, &local, 1, &remote, 1, 0) != static_cast<ssize_t>(code.size()))
    return fail_errno(errno, "read the vDSO of process {}", process);
  auto at = code.find("\x0f\x05");
  if (at == std::string::npos)
    return fail(Errc::kKernelFeatureMissing, "the vDSO of process {} has no system call instruction", process);
  return vdso->start + at;
}

// Of the thread itself where the kernel can (6.9): its leader may have ended, or may have other descriptors.
Result<Fd> pidfd_of(pid_t process, pid_t thread) {
  constexpr unsigned kThread = O_EXCL;
  if (auto fd = static_cast<int>(::syscall(SYS_pidfd_open, thread, kThread)); fd >= 0) return Fd(fd);
  return sys::pidfd_open(process);
}

// Room for one more descriptor for as long as this lives: the hard limit, or one above it.
class RaisedLimit {
 public:
  static Result<std::optional<RaisedLimit>> of(pid_t process) {
    rlimit old{};
    if (::prlimit(process, RLIMIT_NOFILE, nullptr, &old) < 0)
      return fail_errno(errno, "read the descriptor limit of process {}", process);
    rlimit raised = old;
    raised.rlim_cur = old.rlim_max;
    if (old.rlim_cur == old.rlim_max) raised = {old.rlim_cur + 1, old.rlim_max + 1};
    if (::prlimit(process, RLIMIT_NOFILE, &raised, nullptr) < 0)
      return fail(Errc::kNoSpace, "process {} uses all {} descriptors of its limit, and raising it failed: {}", process,
                  old.rlim_cur, errno_text(errno));
    return RaisedLimit(process, old);
  }
  RaisedLimit(RaisedLimit&& other) noexcept : process_(std::exchange(other.process_, 0)), old_(other.old_) {}
  RaisedLimit& operator=(RaisedLimit&&) = delete;
  ~RaisedLimit() {
    if (process_ != 0) (void)::prlimit(process_, RLIMIT_NOFILE, &old_, nullptr);
  }

 private:
  RaisedLimit(pid_t process, rlimit old) : process_(process), old_(old) {}
  pid_t process_;
  rlimit old_;
};

struct Target {
  pid_t process = 0;
  pid_t thread = 0;
  int pidfd = -1;
  uint64_t instruction = 0;
};

Result<long> make_descriptor(Tracee& tracee, const Target& target) {
  // With the target's own rights: without USER_MODE_ONLY an unprivileged one, or one in a user namespace, gets EPERM.
  // Write-protection that the kernel lifts by itself (WP_ASYNC) sees the kernel's writes all the same.
  constexpr long kFlags = O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY;
  auto make = [&] { return tracee.run(target.instruction, SYS_userfaultfd, kFlags, Deadline::in(kPerCall)); };
  TS_TRY_ASSIGN(long fd, make());
  if (fd != -EMFILE) return fd;
  TS_TRY_ASSIGN(std::optional<RaisedLimit> raised, RaisedLimit::of(target.process));
  return make();
}

Result<Fd> steal_userfaultfd(Tracee& tracee, const Target& target) {
  TS_TRY_ASSIGN(long fd, make_descriptor(tracee, target));
  if (fd < 0) return fail_errno(static_cast<int>(-fd), "userfaultfd in process {}", target.process);
  Fd stolen(static_cast<int>(::syscall(SYS_pidfd_getfd, target.pidfd, static_cast<int>(fd), 0U)));
  int steal_errno = errno;
  // Before anything is reported: it must not stay there.
  TS_TRY_ASSIGN(long closed, tracee.run(target.instruction, SYS_close, fd, Deadline::in(kPerCall)));
  if (!stolen.valid()) return fail_errno(steal_errno, "fetch the userfaultfd of process {}", target.process);
  if (closed != 0)
    return fail_errno(static_cast<int>(-closed), "close descriptor {} of process {}", fd, target.process);
  return stolen;
}

Result<Injection> inject_into(pid_t process, const Candidate& candidate, uint64_t instruction, Deadline deadline) {
  TS_TRY_ASSIGN(Fd pidfd, pidfd_of(process, candidate.thread));
  Tracee tracee(process, candidate.thread);
  TS_TRY(tracee.stop(deadline.sooner(Deadline::in(candidate.sleeps_deeply ? kPerSleeper : kPerThread))));
  TS_TRY(tracee.check_state());
  Injection done;
  TS_TRY_ASSIGN(done.uffd, steal_userfaultfd(tracee, {process, candidate.thread, pidfd.get(), instruction}));
  tracee.release();
  done.thread = candidate.thread;
  done.stopped = tracee.stopped();
  return done;
}

// In a process of its own. Its end lets go of a tracee that could not be stopped; ours does not, when we are killed
// while the tracee has our registers.
Result<Injection> inject_apart(pid_t process, const Candidate& candidate, uint64_t instruction, Deadline deadline) {
  std::optional<Result<Injection>> result;
  TS_TRY(sys::run_apart(
      [&] {
        // While this waits for a processor, the target stands still. The end of the process ends both.
        (void)::prctl(PR_SET_TIMERSLACK, 1UL);
        (void)::setpriority(PRIO_PROCESS, 0, kHighestPriority);
        result = inject_into(process, candidate, instruction, deadline);
      },
      kEndsInSeconds));
  return std::move(*result);
}

Result<Injection> try_candidate(pid_t process, const Candidate& candidate, uint64_t instruction, Deadline deadline) {
  auto result = inject_apart(process, candidate, instruction, deadline);
  // In a restartable sequence: those last nanoseconds.
  for (int i = 0; i < kSequenceRetries && !result && result.error().code() == Errc::kUnavailable; ++i)
    result = inject_apart(process, candidate, instruction, deadline);
  return result;
}

}  // namespace

Result<Injection> inject_userfaultfd(pid_t pid, const Cancel& cancel, Deadline deadline) {
  auto begin = Clock::now();
  TS_TRY_ASSIGN(std::vector<Candidate> candidates, candidates_of(pid));
  // By a thread that lives: a leader that has ended has no address space any more.
  TS_TRY_ASSIGN(uint64_t instruction, find_syscall_instruction(candidates.front().thread));
  std::optional<Error> last;
  for (const auto& candidate : candidates) {
    TS_TRY(cancel.check());
    auto result = try_candidate(pid, candidate, instruction, deadline);
    if (result) {
      result->attempts = std::chrono::duration_cast<microseconds>(Clock::now() - begin);
      return result;
    }
    TS_LOG_DEBUG("memory: {}", result.error().message());
    last = std::move(result).error();
    // Another thread would answer the same.
    if (last->code() == Errc::kKernelFeatureMissing || last->code() == Errc::kNoSpace || deadline.passed()) break;
  }
  TS_TRY(candidates_of(pid));  // ended meanwhile: that is the reason
  auto code = last->sys_errno() == EPERM ? Errc::kRefused : last->code();
  return std::unexpected(Error(code, fmt::format("userfaultfd for process {}: {}", pid, last->message())));
}

}  // namespace transship::memory
