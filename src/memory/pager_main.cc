// transship-pager DIR: see pager.h. Started by transshipd, which is at the other end of descriptor 3.
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <csignal>
#include <cstdio>
#include <cstring>

#include "base/fault.h"
#include "base/log.h"
#include "memory/pager.h"

#ifndef TS_VERSION
#define TS_VERSION "unknown"
#endif

namespace transship::memory {
namespace {

constexpr int kControlFd = 3;

// Nothing that ends a daemon, a terminal or a session by the way may end this: processes would find zeros in their
// memory.
void outlive_the_daemon() {
  for (int signal : {SIGHUP, SIGINT, SIGTERM, SIGPIPE}) (void)std::signal(signal, SIG_IGN);
  (void)::setsid();
  (void)!::chdir("/");
  if (auto file = open_file("/proc/self/oom_score_adj", O_WRONLY)) (void)write_all(file->get(), "-1000");
  rlimit nice{.rlim_cur = Pager::kNiceLimit, .rlim_max = Pager::kNiceLimit};
  (void)::setrlimit(RLIMIT_NICE, &nice);
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    (void)::setrlimit(RLIMIT_NOFILE, &files);
  }
  // Before the pages are mapped: only this program itself.
  (void)::mlockall(MCL_CURRENT);
}

// The descriptors it gets are all it needs.
void drop_rights() {
  (void)::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  (void)::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct none[2] = {};
  if (::syscall(SYS_capset, &header, none) < 0) TS_LOG_WARN("pager capset={}", errno_text(errno));
}

int run(const std::string& dir) {
  if (auto r = fault::enable(); !r) TS_LOG_WARN("pager {}", r.error().message());
  outlive_the_daemon();
  auto pager = Pager::create(dir, Fd(kControlFd));
  if (!pager) {
    TS_LOG_ERROR("pager error=\"{}\"", pager.error().message());
    return 1;
  }
  drop_rights();
  auto result = (*pager)->run();
  if (!result) TS_LOG_ERROR("pager error=\"{}\"", result.error().message());
  return result ? 0 : 1;
}

}  // namespace
}  // namespace transship::memory

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--version") == 0) {
    std::printf("transship-pager %s\n", TS_VERSION);
    return 0;
  }
  if (argc != 2 || argv[1][0] != '/' || ::fcntl(3, F_GETFD) < 0) {
    (void)std::fprintf(stderr, "transship-pager is started by transshipd, with a directory and a socket\n");
    return 2;
  }
  // Not the daemon's child: whoever reaps orphans reaps it, also when the daemon has been replaced.
  auto pid = ::fork();
  if (pid != 0) ::_exit(pid < 0 ? 1 : 0);
  (void)::fcntl(3, F_SETFD, FD_CLOEXEC);
  // Nobody who waits for the end of the daemon's output should wait for this program.
  (void)::dup2(STDERR_FILENO, STDOUT_FILENO);
  // Few lines: whoever reads them may have stopped reading.
  transship::init_logging("info");
  return transship::memory::run(argv[1]);
}
