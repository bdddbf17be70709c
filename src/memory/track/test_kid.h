// A child process of a test that runs a function of the test, and why the kernel may not let one be tracked. Tests
// only.
#pragma once
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <string>
#include <thread>

#include "memory/track/inject.h"

namespace transship::memory::testing {

inline std::atomic_ref<int64_t> word(std::byte* shared, size_t i) {
  return std::atomic_ref(reinterpret_cast<int64_t*>(shared)[i]);
}

// Killed and reaped at the end. The function talks with the test through shared(), 1 MiB of memory that both have.
class Kid {
 public:
  explicit Kid(const std::function<void(std::byte* shared)>& body) {
    shared_ = static_cast<std::byte*>(
        ::mmap(nullptr, kSharedBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    pid_ = ::_Fork();  // fork() of the thread sanitizer starts a thread in the child; tests count threads
    if (pid_ != 0) return;
    (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
    body(shared_);
    ::_exit(0);
  }
  Kid(const Kid&) = delete;
  Kid& operator=(const Kid&) = delete;
  ~Kid() {
    (void)::kill(pid_, SIGKILL);
    if (pid_ > 0) (void)::waitpid(pid_, nullptr, 0);
    (void)::munmap(shared_, kSharedBytes);
  }
  pid_t pid() const { return pid_; }
  // A number in the shared memory, for steps and answers.
  std::atomic_ref<int64_t> word(size_t i) const { return testing::word(shared_, i); }
  // Until the kid has written `value`; false after two seconds.
  bool reached(size_t i, int64_t value) const {
    for (int n = 0; n < 20'000; ++n) {
      if (word(i) == value) return true;
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    return false;
  }

  static constexpr size_t kSharedBytes = 1U << 20;

 private:
  pid_t pid_ = -1;
  std::byte* shared_ = nullptr;
};

// Empty where processes can be tracked.
inline std::string why_no_tracking() {
  if (::geteuid() != 0) return "not root";
  Kid kid([](std::byte*) { ::pause(); });
  auto injection = inject_userfaultfd(kid.pid(), *Cancel::create(), Deadline::in(milliseconds(2000)));
  return injection ? "" : injection.error().message();
}

}  // namespace transship::memory::testing
