#include "sys/apart.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"

#ifdef __SANITIZE_THREAD__
// The thread sanitizer's clone() takes every child for one with memory of its own, and ends the program over one that
// has not. This one waits for its child as after vfork(), so that the child can do as this thread would.
extern "C" int __clone(int (*)(void*), void*, int, void*, ...);  // NOLINT(bugprone-reserved-identifier): glibc's own
#define TS_CLONE __clone
#else
#define TS_CLONE ::clone
#endif

namespace transship::sys {
namespace {

constexpr size_t kStack = 512U << 10;

struct Errand {
  const std::function<void()>* work;
  unsigned seconds;
};

int start(void* argument) {
  const auto& errand = *static_cast<Errand*>(argument);
  (void)::prctl(PR_SET_NAME, "ts-apart");
  (void)::alarm(errand.seconds);
  (*errand.work)();
  return 0;
}

}  // namespace

Result<> run_apart(const std::function<void()>& work, unsigned seconds) {
  void* stack = ::mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) return fail_errno(errno, "map a stack");
  Errand errand{&work, seconds};
  // No signal at its end, so that only we are to wait for it.
  pid_t pid = TS_CLONE(start, static_cast<char*>(stack) + kStack, CLONE_VM | CLONE_VFORK | CLONE_FILES, &errand);
  int start_errno = errno;
  int status = 0;
  if (pid > 0) (void)retry_eintr([&] { return ::waitpid(pid, &status, __WALL); });
  (void)::munmap(stack, kStack);
  if (pid < 0) return fail_errno(start_errno, "start a process");
  if (WIFSIGNALED(status)) return fail(Errc::kInternal, "process {} was killed by signal {}", pid, WTERMSIG(status));
  return {};
}

}  // namespace transship::sys
