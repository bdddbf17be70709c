#include "memory/track/inject.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <array>
#include <filesystem>
#include <random>
#include <set>

#include "base/text.h"
#include "memory/track/test_kid.h"
#include "sys/file.h"
#include "sys/proc_text.h"

namespace transship::memory {
namespace {

using testing::Kid;
using testing::word;

int64_t now_ms() { return std::chrono::duration_cast<milliseconds>(Clock::now().time_since_epoch()).count(); }

std::set<std::string> descriptors(pid_t pid) {
  std::set<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", pid)))
    found.insert(entry.path().filename().string());
  return found;
}

std::string status_field(pid_t pid, const std::string& name) {
  auto text = sys::read_file(fmt::format("/proc/{}/status", pid));
  return text ? sys::parse_fields(*text)[name] : "";
}

class Inject : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { why_not_ = testing::why_no_tracking(); }
  void SetUp() override {
    if (!why_not_.empty()) GTEST_SKIP() << why_not_;
  }
  Result<Injection> inject(pid_t pid, milliseconds patience = milliseconds(2000)) {
    return inject_userfaultfd(pid, cancel_, Deadline::in(patience));
  }
  // It is a userfaultfd, and the process has none.
  void expect_clean(const Result<Injection>& injection, pid_t pid, const std::set<std::string>& before) {
    ASSERT_TRUE(injection) << injection.error().message();
    auto link = std::filesystem::read_symlink(fmt::format("/proc/self/fd/{}", injection->uffd.get()));
    EXPECT_EQ(link, "anon_inode:[userfaultfd]");
    EXPECT_EQ(descriptors(pid), before);
    EXPECT_EQ(status_field(pid, "TracerPid"), "0");
    EXPECT_EQ(status_field(pid, "SigBlk"), "0000000000000000");
  }
  void expect_works(const Kid& kid) {
    auto before = descriptors(kid.pid());
    expect_clean(inject(kid.pid()), kid.pid(), before);
  }
  static inline std::string why_not_;
  Cancel cancel_ = *Cancel::create();
};

// Killed at any moment, also in that in which the thread has registers of ours.
TEST_F(Inject, AKilledTracerLeavesTheProcessAsItWas) {
  Kid kid([](std::byte* shared) {
    for (int64_t n = 1;; ++n) {
      if (::syscall(SYS_getppid) != ::getppid()) ::_exit(1);
      word(shared, 0) = n;
    }
  });
  ASSERT_EQ(::prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  auto children = [] {
    auto text = sys::read_file(fmt::format("/proc/self/task/{}/children", ::gettid()));
    return text ? std::string(trim(*text)) : text.error().message();
  };
  auto before = descriptors(kid.pid());
  std::mt19937 random(7);
  for (int i = 0; i < 200; ++i) {
    SCOPED_TRACE(i);
    {
      Kid tracer([&](std::byte*) {
        while (true) (void)inject(kid.pid());
      });
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    }
    // What goes on without its parent is ours now.
    for (int n = 0; n < 10'000 && children() != std::to_string(kid.pid()); ++n) {
      while (::waitpid(-1, nullptr, __WALL | WNOHANG) > 0) continue;
      std::this_thread::sleep_for(milliseconds(1));
    }
    ASSERT_EQ(children(), std::to_string(kid.pid()));
    ASSERT_EQ(status_field(kid.pid(), "TracerPid"), "0");
    int64_t count = kid.word(0);
    for (int n = 0; n < 1000 && kid.word(0) == count; ++n) std::this_thread::sleep_for(milliseconds(1));
    ASSERT_GT(kid.word(0), count);
  }
  (void)::prctl(PR_SET_CHILD_SUBREAPER, 0);
  EXPECT_EQ(descriptors(kid.pid()), before);
  EXPECT_EQ(status_field(kid.pid(), "SigBlk"), "0000000000000000");
}

// A read of a pipe, restarted by the kernel: one call that returns what was written long after.
TEST_F(Inject, BlockedReadGoesOn) {
  auto pipe = make_pipe();
  ASSERT_TRUE(pipe);
  Kid kid([&](std::byte* shared) {
    char c = 0;
    word(shared, 0) = 1;
    word(shared, 1) = ::read(pipe->read.get(), &c, 1);
    word(shared, 2) = c;
    ::pause();
  });
  ASSERT_TRUE(kid.reached(0, 1));
  for (int i = 0; i < 20; ++i) expect_works(kid);
  EXPECT_EQ(kid.word(1), 0);
  ASSERT_TRUE(write_all(pipe->write.get(), "x"));
  EXPECT_TRUE(kid.reached(2, 'x'));
  EXPECT_EQ(kid.word(1), 1);
}

// nanosleep and poll restart through the restart block; the whole time is slept, not more.
TEST_F(Inject, TimedWaitsLastAsLongAsTheyShould) {
  Kid kid([&](std::byte* shared) {
    pollfd none{-1, 0, 0};
    timespec nap{0, 300'000'000};
    word(shared, 0) = 1;
    auto begin = now_ms();
    word(shared, 1) = ::nanosleep(&nap, nullptr) == 0 ? ::poll(&none, 1, 300) : -99;
    word(shared, 2) = now_ms() - begin;
    word(shared, 0) = 2;
    ::pause();
  });
  ASSERT_TRUE(kid.reached(0, 1));
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(milliseconds(100));
    expect_works(kid);
  }
  ASSERT_TRUE(kid.reached(0, 2));
  EXPECT_EQ(kid.word(1), 0);
  EXPECT_GE(kid.word(2), 600);
  EXPECT_LT(kid.word(2), 900);
}

// Registers, floating point and flags of code that never enters the kernel.
TEST_F(Inject, ComputationIsRight) {
  Kid kid([](std::byte* shared) {
    volatile uint64_t seed = 88172645463325252ULL;  // volatile: both times are worked through
    auto work = [&] {
      uint64_t x = seed;
      double d = 1;
      for (int i = 0; i < 10'000'000; ++i) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        if (i % 8 == 0) d = d * 1.0000001 + static_cast<double>(x & 1);
      }
      return x ^ std::bit_cast<uint64_t>(d);
    };
    uint64_t want = work();
    word(shared, 0) = 1;
    bool right = true;
    while (word(shared, 2) == 0 && right) right = work() == want;
    word(shared, 1) = right ? 1 : -1;
    ::pause();
  });
  ASSERT_TRUE(kid.reached(0, 1));
  for (int i = 0; i < 20; ++i) expect_works(kid);
  kid.word(2) = 1;
  EXPECT_TRUE(kid.reached(1, 1));
}

// A signal that arrives around the injection is delivered once, with its value.
TEST_F(Inject, NoSignalIsLost) {
  Kid kid([](std::byte* shared) {
    static std::byte* all = shared;
    struct sigaction action{};
    action.sa_flags = SA_SIGINFO;
    action.sa_sigaction = [](int, siginfo_t* info, void*) {
      word(all, 1) = word(all, 1) + 1;
      word(all, 2) = word(all, 2) + info->si_value.sival_int;
    };
    ::sigaction(SIGRTMIN, &action, nullptr);
    word(shared, 0) = 1;
    while (true) ::pause();
  });
  ASSERT_TRUE(kid.reached(0, 1));
  std::thread sender([&] {
    for (int i = 1; i <= 200; ++i) {
      (void)::sigqueue(kid.pid(), SIGRTMIN, sigval{.sival_int = i});
      std::this_thread::sleep_for(std::chrono::microseconds(300));
    }
  });
  for (int i = 0; i < 100; ++i) {
    auto r = inject(kid.pid());
    EXPECT_TRUE(r) << r.error().message();
  }
  sender.join();
  EXPECT_TRUE(kid.reached(1, 200)) << kid.word(1);
  EXPECT_EQ(kid.word(2), 200 * 201 / 2);
}

TEST_F(Inject, UnderSeccompThatKills) {
  Kid kid([](std::byte* shared) {
    sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    sock_fprog program{4, filter};
    (void)::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    word(shared, 0) = ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0 ? 1 : -1;
    while (true) ::usleep(1000);
  });
  ASSERT_TRUE(kid.reached(0, 1));
  expect_works(kid);
}

TEST_F(Inject, UnprivilegedInItsOwnUserNamespaceAndNotDumpable) {
  Kid kid([](std::byte* shared) {
    bool ok = ::setresgid(65534, 65534, 65534) == 0 && ::setresuid(65534, 65534, 65534) == 0;
    (void)::prctl(PR_SET_DUMPABLE, 0);
    if (ok) (void)::unshare(CLONE_NEWUSER);  // where that is not allowed, being nobody has to do
    word(shared, 0) = ok ? 1 : -1;
    ::pause();
  });
  ASSERT_TRUE(kid.reached(0, 1));
  expect_works(kid);
}

#ifdef __SANITIZE_THREAD__
#define SKIP_WITH_THREAD_SANITIZER() \
  GTEST_SKIP() << "the thread sanitizer has a thread in the kid, and ends it at clone()"
#else
#define SKIP_WITH_THREAD_SANITIZER() (void)0
#endif

TEST_F(Inject, LeaderHasEnded) {
  SKIP_WITH_THREAD_SANITIZER();
  Kid kid([](std::byte* shared) {
    std::thread([shared] {
      word(shared, 1) = static_cast<int64_t>(::gettid());
      while (true) ::usleep(1000);
    }).detach();
    while (word(shared, 1) == 0) ::usleep(100);
    ::syscall(SYS_exit, 0);
  });
  for (int i = 0; i < 2000 && status_field(kid.pid(), "State") != "Z (zombie)"; ++i) ::usleep(1000);
  auto r = inject(kid.pid());
  if (!r && r.error().message().find("fetch") != std::string::npos) GTEST_SKIP() << "no thread pidfds before Linux 6.9";
  ASSERT_TRUE(r) << r.error().message();
  EXPECT_EQ(r->thread, kid.word(1));
}

// The caller waits for a child that has its memory, and a stack of its own: on the caller's it would write over where
// the caller goes on.
template <long kMilliseconds>
void sleep_as_vfork_does() {
  static std::array<std::byte, 65536> stack;
  auto child = [](void*) {
    timespec nap{0, kMilliseconds * 1'000'000};
    (void)::syscall(SYS_nanosleep, &nap, nullptr);
    return 0;
  };
  (void)::clone(child, stack.data() + stack.size(), CLONE_VM | CLONE_VFORK | SIGCHLD, nullptr);
}

// The thread in vfork cannot be stopped; another one is taken, and the first is not left stopped afterwards.
TEST_F(Inject, ThreadInVfork) {
  SKIP_WITH_THREAD_SANITIZER();
  Kid kid([](std::byte* shared) {
    std::thread([] {
      while (true) ::usleep(1000);
    }).detach();
    word(shared, 0) = 1;
    sleep_as_vfork_does<600>();
    word(shared, 0) = 2;
    ::pause();
  });
  ASSERT_TRUE(kid.reached(0, 1));
  ::usleep(50'000);
  auto r = inject(kid.pid());
  ASSERT_TRUE(r) << r.error().message();
  EXPECT_NE(r->thread, kid.pid());
  EXPECT_TRUE(kid.reached(0, 2));
}

TEST_F(Inject, NoThreadCanBeStopped) {
  SKIP_WITH_THREAD_SANITIZER();
  Kid kid([](std::byte* shared) {
    word(shared, 0) = 1;
    sleep_as_vfork_does<400>();
    word(shared, 0) = 2;
    while (true) ::usleep(1000);
  });
  ASSERT_TRUE(kid.reached(0, 1));
  ::usleep(50'000);
  auto r = inject(kid.pid());
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kTimeout) << r.error().message();
  ASSERT_TRUE(kid.reached(0, 2));
  expect_works(kid);
}

TEST_F(Inject, StoppedProcessStaysStopped) {
  Kid kid([](std::byte* shared) {
    word(shared, 0) = 1;
    while (true) word(shared, 1) = word(shared, 1) + 1;
  });
  ASSERT_TRUE(kid.reached(0, 1));
  ASSERT_EQ(::kill(kid.pid(), SIGSTOP), 0);
  ASSERT_EQ(::waitpid(kid.pid(), nullptr, WUNTRACED), kid.pid());
  auto count = static_cast<int64_t>(kid.word(1));
  expect_works(kid);
  ::usleep(20'000);
  EXPECT_EQ(status_field(kid.pid(), "State"), "T (stopped)");
  EXPECT_EQ(kid.word(1), count);
  ASSERT_EQ(::kill(kid.pid(), SIGCONT), 0);
  for (int i = 0; i < 2000 && kid.word(1) == count; ++i) ::usleep(1000);
  EXPECT_NE(kid.word(1), count);
}

TEST_F(Inject, NoFreeDescriptorBelowTheSoftLimit) {
  Kid kid([](std::byte* shared) {
    rlimit limit{16, 64};
    (void)::setrlimit(RLIMIT_NOFILE, &limit);
    while (::dup(0) >= 0) {
    }
    word(shared, 0) = 1;
    ::pause();
  });
  ASSERT_TRUE(kid.reached(0, 1));
  expect_works(kid);
  rlimit after{};
  ASSERT_EQ(::prlimit(kid.pid(), RLIMIT_NOFILE, nullptr, &after), 0);
  EXPECT_EQ(after.rlim_cur, 16U);
  EXPECT_EQ(after.rlim_max, 64U);
}

TEST_F(Inject, TracedByAnother) {
  Kid kid([](std::byte* shared) {
    pid_t debugger = ::_Fork();
    if (debugger == 0) {
      word(shared, 1) = static_cast<int64_t>(::getpid());
      word(shared, 0) = ::ptrace(PTRACE_SEIZE, ::getppid(), 0, 0) == 0 ? 1 : -1;
      ::sleep(5);
      ::_exit(0);
    }
    while (true) ::usleep(1000);
  });
  ASSERT_TRUE(kid.reached(0, 1));
  auto r = inject(kid.pid());
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kRefused) << r.error().message();
  (void)::kill(static_cast<pid_t>(kid.word(1)), SIGKILL);
}

TEST_F(Inject, ProcessThatHasEnded) {
  pid_t pid = 0;
  {
    pid = Kid([](std::byte*) {}).pid();
  }
  EXPECT_EQ(inject(pid).error().code(), Errc::kNotFound);
}

}  // namespace
}  // namespace transship::memory
