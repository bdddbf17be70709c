#include "gate/standard_streams.h"

#include <linux/close_range.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <nlohmann/json.hpp>

#include "sys/file.h"

namespace transship::gate {
namespace {

bool is_pipe(int fd) {
  struct stat st;
  return ::fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode);
}

// The process that reads. Only system calls from here on: it lives long and must not need anything.
[[noreturn]] void collect(int from, int log) {
  (void)::setsid();
  (void)::dup2(from, 0);
  (void)::dup2(log, 1);
  (void)::dup2(1, 2);
  (void)::close_range(3, ~0U, 0);
  (void)::signal(SIGPIPE, SIG_IGN);
  (void)!::chdir("/");  // only so that it keeps no file system busy
  static std::array<char, 65536> buffer;
  while (true) {
    ssize_t n = ::read(0, buffer.data(), buffer.size());
    if (n == 0 || (n < 0 && errno != EINTR)) ::_exit(0);
    // A full disk loses output, but must not stop the container.
    for (ssize_t done = 0; done < n;) {
      ssize_t written = ::write(1, buffer.data() + done, static_cast<size_t>(n - done));
      if (written <= 0) break;
      done += written;
    }
  }
}

Result<Fd> pipe_into(const std::string& log_path) {
  TS_TRY_ASSIGN(Fd log, open_file(log_path, O_WRONLY | O_CREAT | O_APPEND, 0600));
  TS_TRY_ASSIGN(Pipe pipe, make_pipe());
  pid_t pid = ::fork();
  if (pid < 0) return fail_errno(errno, "start a process that keeps the container's output");
  if (pid == 0) {
    // Its parent is init then: nobody of ours waits for it.
    // It stays as long as the container.
    (void)::setpriority(PRIO_PROCESS, 0, 0);
    if (::fork() == 0) collect(pipe.read.get(), log.get());
    ::_exit(0);
  }
  (void)retry_eintr([&] { return ::waitpid(pid, nullptr, 0); });
  return std::move(pipe.write);
}

}  // namespace

Result<StandardStreams> replace_missing_pipes(const std::string& descriptors_path, const std::string& log_path) {
  TS_TRY_ASSIGN(std::string text, sys::read_file(descriptors_path, 65536));
  auto all = nlohmann::json::parse(text, nullptr, false);
  auto was_pipe = [&](size_t fd) {
    return all.is_array() && all.size() > fd && all[fd].is_string() && all[fd].get<std::string>().starts_with("pipe:");
  };
  StandardStreams streams;
  if (was_pipe(0) && !is_pipe(0)) {
    TS_TRY_ASSIGN(Pipe input, make_pipe());
    streams.in = std::move(input.read);
  }
  bool out = was_pipe(1) && !is_pipe(1);
  bool err = was_pipe(2) && !is_pipe(2);
  if (!out && !err) return streams;
  TS_TRY_ASSIGN(Fd log, pipe_into(log_path));
  if (out && err) {
    streams.err = Fd(::fcntl(log.get(), F_DUPFD_CLOEXEC, 3));
    if (!streams.err.valid()) return fail_errno(errno, "duplicate a descriptor");
  }
  (out ? streams.out : streams.err) = std::move(log);
  return streams;
}

}  // namespace transship::gate
