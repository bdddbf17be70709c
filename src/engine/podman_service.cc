#include "engine/podman_service.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>

#include "base/text.h"
#include "sys/file.h"

namespace transship::engine {
namespace {
constexpr milliseconds kStaleEnds{3000};
}  // namespace

PodmanService::PodmanService(std::string program, std::string runtime, const std::string& run_dir)
    : program_(std::move(program)),
      runtime_(std::move(runtime)),
      dir_(run_dir + "/podman"),
      socket_(dir_ + "/podman.sock"),
      log_(dir_ + "/service.log"),
      pid_file_(dir_ + "/service.pid") {}

PodmanService::~PodmanService() {
  MutexLock lock(mutex_);
  if (child_.running()) {
    child_.kill(SIGTERM);
    (void)child_.wait(Deadline::in(milliseconds(5000)));  // SIGKILL follows from Child where this was not enough
  }
  (void)::unlink(socket_.c_str());
  (void)::unlink(log_.c_str());
  (void)::unlink(pid_file_.c_str());
  (void)::rmdir(dir_.c_str());
}

bool PodmanService::up() const { return child_.running() && !sys::process_ended(child_.pid()); }

std::string PodmanService::log_tail() const {
  auto text = sys::read_file(log_);
  if (!text) return {};
  auto tail = trim(*text);
  return std::string(tail.substr(tail.size() > 1000 ? tail.size() - 1000 : 0));
}

Result<PodmanApi> PodmanService::api() {
  MutexLock lock(mutex_);
  // One whose socket somebody removed answers nobody any more.
  if (up() && ::access(socket_.c_str(), F_OK) == 0) return PodmanApi(socket_);
  if (program_.empty())
    return std::unexpected(Error(Errc::kUnavailable, "no program is configured for a Podman service of our own")
                               .with_remedy("systemctl start podman.socket, or set the path of podman"));
  TS_TRY_CTX(start(), "start a Podman service of our own");
  return PodmanApi(socket_);
}

void PodmanService::end_stale() {
  auto text = sys::read_file(pid_file_, 4096);
  if (!text) return;
  (void)::unlink(pid_file_.c_str());
  auto words = split(trim(*text), ' ');
  auto pid = parse_u64(words[0], "pid");
  if (words.size() != 2 || !pid) return;
  auto id = static_cast<pid_t>(*pid);
  auto process = sys::pidfd_open(id);
  auto start = sys::start_time(id);
  auto never = Cancel::create();
  if (!process || !never || !start || std::to_string(*start) != words[1]) return;
  for (int signal : {SIGTERM, SIGKILL}) {
    if (::syscall(SYS_pidfd_send_signal, process->get(), signal, nullptr, 0) < 0) return;
    if (wait_readable(process->get(), *never, Deadline::in(kStaleEnds), "an old Podman service to end")) return;
  }
}

Result<> PodmanService::start() {
  child_ = sys::Child();
  TS_TRY(sys::make_dirs(dir_));
  end_stale();
  (void)::unlink(socket_.c_str());
  TS_TRY_ASSIGN(Fd log, open_file(log_, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  sys::Child::Options options;
  // Our own service manager's socket must not reach containers.
  options.argv = {"env",    "-u",        "NOTIFY_SOCKET", "-u",     "LISTEN_FDS", "-u",       "LISTEN_PID",
                  program_, "--runtime", runtime_,        "system", "service",    "--time=0", "unix://" + socket_};
  options.stdout_fd = log.get();
  options.stderr_fd = log.get();
  TS_TRY_ASSIGN(child_, sys::Child::spawn(options));
  if (auto start = sys::start_time(child_.pid()); start)
    TS_TRY(sys::write_file_atomic(pid_file_, fmt::format("{} {}\n", child_.pid(), *start)));
  auto r = wait_until_up();
  if (!r) child_ = sys::Child();
  return r;
}

Result<> PodmanService::wait_until_up() {
  auto deadline = Deadline::in(milliseconds(15'000));
  PodmanApi api(socket_);
  TS_TRY_ASSIGN(Cancel never, Cancel::create());
  while (true) {
    if (::access(socket_.c_str(), F_OK) == 0 && api.ping(deadline)) return {};
    if (!up() || deadline.passed()) {
      return std::unexpected(
          Error(Errc::kUnavailable, fmt::format("`{} --runtime {} system service` {}: {}", program_, runtime_,
                                                up() ? "does not answer" : "ended at once", log_tail()))
              .with_remedy(fmt::format("check that podman is installed, and that [engine.runtimes] in "
                                       "/etc/containers/containers.conf.d has `{}`",
                                       runtime_)));
    }
    TS_TRY(sleep_for(milliseconds(20), never));
  }
}

}  // namespace transship::engine
