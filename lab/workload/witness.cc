// Runs a command and counts beside it: every millisecond in which this process runs, a number goes up, in a page that
// is always at the same address. Who looks at it from outside (lab/faultkit/witness.py) sees which copy of a container
// runs. It makes no system call that somebody else could see, so a copy whose network is shut is seen as well.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <initializer_list>

namespace {

constexpr uintptr_t kAddress = 0x10'0000'0000;  // where nothing else is put
constexpr size_t kPage = 4096;
constexpr timespec kPause{.tv_sec = 0, .tv_nsec = 1'000'000};

pid_t child = 0;

void pass_on(int signal) { (void)::kill(child, signal); }

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    (void)std::fprintf(stderr, "usage: witness COMMAND...\n");
    return 2;
  }
  void* page = ::mmap(reinterpret_cast<void*>(kAddress), kPage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (page == MAP_FAILED) {
    std::perror("witness: mmap");
    return 1;
  }
  child = ::fork();
  if (child == 0) {
    ::execvp(argv[1], argv + 1);
    std::perror("witness: exec");
    ::_exit(127);
  }
  for (int signal : {SIGTERM, SIGINT}) (void)std::signal(signal, pass_on);
  auto* count = static_cast<volatile uint64_t*>(page);
  while (true) {
    *count = *count + 1;
    (void)::nanosleep(&kPause, nullptr);
    int status = 0;
    // The first process of a container reaps whatever is left to it.
    for (pid_t ended = 0; (ended = ::waitpid(-1, &status, WNOHANG)) > 0;)
      if (ended == child) return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
}
