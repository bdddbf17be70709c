#include "sys/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <csignal>

#include "base/text.h"
#include "sys/file.h"

extern char** environ;

namespace transship::sys {
namespace {

// Of linux/pidfd.h, since Linux 6.13; how it ended since 6.15.
struct PidfdInfo {
  uint64_t mask;
  uint64_t cgroup;
  uint32_t ids[11];
  int32_t exit_code;
};
static_assert(sizeof(PidfdInfo) == 64);
constexpr unsigned long kPidfdGetInfo = _IOWR(0xFF, 11, PidfdInfo);
constexpr uint64_t kPidfdInfoExit = 1U << 3;

// Everything the child needs between fork and exec, made before the fork (no allocation in between).
struct ExecImage {
  explicit ExecImage(const std::vector<std::string>& args, const std::vector<std::string>& extra_env) {
    for (const auto& a : args) argv.push_back(const_cast<char*>(a.c_str()));  // NOLINT: exec's old signature
    argv.push_back(nullptr);
    for (char** e = environ; *e != nullptr; ++e) {
      std::string_view variable(*e);
      auto name = variable.substr(0, variable.find('=') + 1);
      // Of two values of one name, the program would see the first.
      if (std::ranges::none_of(extra_env, [&](const auto& own) { return own.starts_with(name); })) env.push_back(*e);
    }
    for (const auto& e : extra_env) env.push_back(const_cast<char*>(e.c_str()));  // NOLINT
    env.push_back(nullptr);
  }
  std::vector<char*> argv;
  std::vector<char*> env;
};

bool place_fd(int from, int to) {
  if (from == to) return ::fcntl(to, F_SETFD, 0) == 0;
  return ::dup2(from, to) >= 0;
}

// Only system calls: this runs between fork and exec.
bool set_mounts(const Child::Options& o) {
  // Joining leads to the namespace's own root, out of a chroot.
  if (o.mount_namespace >= 0 &&
      (::setns(o.mount_namespace, CLONE_NEWNS) != 0 || ::fchdir(o.root) != 0 || ::chroot(".") != 0))
    return false;
  if (o.lay_over.first.empty()) return true;
  // Slave, not private: what the host mounts later is to be seen here as well, only not the other way round.
  return ::unshare(CLONE_NEWNS) == 0 && ::mount("none", "/", nullptr, MS_REC | MS_SLAVE, nullptr) == 0 &&
         ::mount(o.lay_over.first.c_str(), o.lay_over.second.c_str(), nullptr, MS_BIND, nullptr) == 0;
}

[[noreturn]] void exec_child(const ExecImage& image, const Child::Options& o, int error_fd) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  if (o.new_session)
    ::setsid();
  else if (o.new_group)
    ::setpgid(0, 0);
  if (o.nice != 0) (void)!::nice(o.nice);
  int null_fd = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  // Descriptors of ours may have the numbers that the program's are about to get.
  bool ok = set_mounts(o);
  error_fd = ::fcntl(error_fd, F_DUPFD_CLOEXEC, std::max(o.extra_fd_as, STDERR_FILENO) + 1);
  ok = ok && place_fd(o.stdin_fd >= 0 ? o.stdin_fd : null_fd, 0);
  if (o.stdout_fd >= 0) ok = ok && place_fd(o.stdout_fd, 1);
  if (o.stderr_fd >= 0) ok = ok && place_fd(o.stderr_fd, 2);
  if (o.extra_fd >= 0) ok = ok && place_fd(o.extra_fd, o.extra_fd_as);
  if (ok) ::execvpe(image.argv[0], image.argv.data(), image.env.data());
  int e = errno;
  (void)!::write(error_fd, &e, sizeof e);
  ::_exit(127);
}

int exit_code_of_status(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

Result<> wait_pidfd(int pidfd, Deadline deadline, const Cancel* cancel) {
  std::array<pollfd, 2> p = {{{pidfd, POLLIN, 0}, {cancel != nullptr ? cancel->poll_fd() : -1, POLLIN, 0}}};
  while (true) {
    int n = ::poll(p.data(), p.size(), static_cast<int>(deadline.remaining().count()));
    if (n < 0 && errno != EINTR) return fail_errno(errno, "poll");
    if (n > 0 && p[0].revents != 0) return {};
    if (n > 0 && p[1].revents != 0 && cancel != nullptr) return cancel->check();
    if (deadline.passed()) return fail(Errc::kTimeout, "still running at its deadline");
  }
}

// Moves what is there from `fd` into `sink`; false at the end of the stream.
bool drain(int fd, std::string& sink, size_t limit) {
  std::array<char, 16384> buffer;
  ssize_t n = retry_eintr([&] { return ::read(fd, buffer.data(), buffer.size()); });
  if (n <= 0) return false;
  size_t room = limit > sink.size() ? limit - sink.size() : 0;
  sink.append(buffer.data(), std::min(room, static_cast<size_t>(n)));
  return true;
}

// Feeds stdin and collects stdout and stderr until both are closed.
struct Streams {
  Fd in, out, err;
  std::string_view input;
  Result<> pump(const Command& c, const Cancel* cancel, CommandResult& result) {
    while (out.valid() || err.valid()) {
      std::array<pollfd, 4> p = {{{in.get(), POLLOUT, 0},
                                  {out.get(), POLLIN, 0},
                                  {err.get(), POLLIN, 0},
                                  {cancel != nullptr ? cancel->poll_fd() : -1, POLLIN, 0}}};
      int n = ::poll(p.data(), p.size(), static_cast<int>(c.deadline.remaining().count()));
      if (n < 0 && errno != EINTR) return fail_errno(errno, "poll");
      if (n > 0 && p[3].revents != 0) return cancel->check();
      if (n > 0 && p[0].revents != 0) feed();
      if (n > 0 && p[1].revents != 0 && !drain(out.get(), result.out, c.max_output)) out.reset();
      if (n > 0 && p[2].revents != 0 && !drain(err.get(), result.err, c.max_output)) err.reset();
      if (c.deadline.passed()) return fail(Errc::kTimeout, "still running at its deadline");
    }
    return {};
  }
  void feed() {
    ssize_t n = retry_eintr([&] { return ::write(in.get(), input.data(), input.size()); });
    if (n > 0) input.remove_prefix(static_cast<size_t>(n));
    if (n < 0 || input.empty()) in.reset();
  }
};

}  // namespace

Child& Child::operator=(Child&& other) noexcept {
  if (this == &other) return *this;
  end();
  pid_ = std::exchange(other.pid_, -1);
  group_ = other.group_;
  pidfd_ = std::move(other.pidfd_);
  return *this;
}

Child::~Child() { end(); }

void Child::end() noexcept {
  if (pid_ <= 0) return;
  kill(SIGKILL);
  (void)wait(Deadline::in(milliseconds(5000)));
  pid_ = -1;
}

Result<Child> Child::spawn(const Options& options) {
  TS_CHECK(!options.argv.empty());
  ExecImage image(options.argv, options.env);
  TS_TRY_ASSIGN(Pipe error_pipe, make_pipe());
  // With a clone flag for the pidfd there is no moment in which the pid could be another process.
  // Not fork(): nothing but system calls follows, so no library has to prepare for it. The thread sanitizer would even
  // start a thread in the child, which may join no mount namespace then.
  pid_t pid = ::_Fork();
  if (pid < 0) return fail_errno(errno, "start {}", options.argv[0]);
  if (pid == 0) exec_child(image, options, error_pipe.write.get());
  Child child;
  child.pid_ = pid;
  child.group_ = options.new_group || options.new_session;
  error_pipe.write.reset();
  int exec_errno = 0;
  if (auto r = read_exact(error_pipe.read.get(), std::as_writable_bytes(std::span(&exec_errno, 1))); r) {
    (void)::waitpid(pid, nullptr, 0);
    child.pid_ = -1;
    return fail_errno(exec_errno, "start {}", options.argv[0]);
  }
  TS_TRY_ASSIGN(child.pidfd_, pidfd_open(pid));
  return child;
}

Result<int> Child::wait(Deadline deadline, const Cancel* cancel) {
  TS_CHECK(pid_ > 0);
  if (pidfd_.valid()) TS_TRY(wait_pidfd(pidfd_.get(), deadline, cancel));
  int status = 0;
  if (retry_eintr([&] { return ::waitpid(pid_, &status, 0); }) < 0) return fail_errno(errno, "wait for pid {}", pid_);
  pid_ = -1;
  return exit_code_of_status(status);
}

void Child::kill(int signal) {
  if (pid_ <= 0) return;
  if (group_) (void)::kill(-pid_, signal);
  (void)::kill(pid_, signal);
}

Result<CommandResult> run(const Command& command, const Cancel* cancel) {
  TS_TRY_ASSIGN(Pipe out, make_pipe());
  TS_TRY_ASSIGN(Pipe err, make_pipe());
  Pipe in;
  if (!command.input.empty()) {
    TS_TRY_ASSIGN(in, make_pipe());
    (void)::fcntl(in.write.get(), F_SETFL, O_NONBLOCK);
  }
  Child::Options options;
  options.argv = command.argv;
  options.env = command.env;
  options.stdin_fd = in.read.get();
  options.stdout_fd = out.write.get();
  options.stderr_fd = err.write.get();
  TS_TRY_ASSIGN(Child child, Child::spawn(options));
  out.write.reset();
  err.write.reset();
  in.read.reset();
  CommandResult result;
  Streams streams{std::move(in.write), std::move(out.read), std::move(err.read), command.input};
  auto name = join(command.argv, " ").substr(0, 200);
  TS_TRY_CTX(streams.pump(command, cancel, result), name);
  auto code = child.wait(command.deadline, cancel);
  if (!code) return std::unexpected(std::move(code).error().context(name));
  result.exit_code = *code;
  return result;
}

Result<CommandResult> run_ok(const Command& command, const Cancel* cancel) {
  TS_TRY_ASSIGN(CommandResult r, run(command, cancel));
  if (r.exit_code == 0) return r;
  auto why = trim(r.err.empty() ? r.out : r.err);
  return fail(Errc::kUnavailable, "{} ended with code {}: {}", join(command.argv, " ").substr(0, 200), r.exit_code,
              why.substr(why.size() > 2000 ? why.size() - 2000 : 0));
}

Result<uint64_t> start_time(pid_t pid) {
  TS_TRY_ASSIGN(std::string stat, read_file(fmt::format("/proc/{}/stat", pid), 4096));
  // The command name may hold spaces and parentheses: count from the last one.
  auto end = stat.rfind(')');
  if (end == std::string::npos) return fail(Errc::kCorrupt, "/proc/{}/stat has no command name", pid);
  auto fields = split(std::string_view(stat).substr(end + 2), ' ');
  constexpr size_t kStartTime = 22 - 3;
  if (fields.size() <= kStartTime) return fail(Errc::kCorrupt, "/proc/{}/stat is too short", pid);
  return parse_u64(fields[kStartTime], "start time");
}

Result<Fd> pidfd_open(pid_t pid) {
  long fd = ::syscall(SYS_pidfd_open, pid, 0);
  if (fd < 0) return fail_errno(errno, "pidfd_open {}", pid);
  return Fd(static_cast<int>(fd));
}

std::optional<int> exit_code_of(int pidfd) {
  PidfdInfo info{};
  info.mask = kPidfdInfoExit;
  if (::ioctl(pidfd, kPidfdGetInfo, &info) != 0 || (info.mask & kPidfdInfoExit) == 0) return std::nullopt;
  return exit_code_of_status(info.exit_code);
}

void reserve_descriptors(int count) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) count = static_cast<int>(std::min<rlim_t>(limit.rlim_cur, count));
  Fd any(::open("/", O_PATH | O_CLOEXEC));
  Fd highest(::fcntl(any.get(), F_DUPFD_CLOEXEC, count - 1));
}

bool process_ended(pid_t pid) {
  auto stat = read_file(fmt::format("/proc/{}/stat", pid), 4096);
  if (!stat) return true;
  auto end = stat->rfind(')');
  return end == std::string::npos || end + 2 >= stat->size() || (*stat)[end + 2] == 'Z' || (*stat)[end + 2] == 'X';
}

}  // namespace transship::sys
