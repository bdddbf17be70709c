#include "cli/remote.h"

#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <csignal>

#include "base/cancel.h"
#include "base/fd.h"

extern char** environ;

namespace transship::cli {
namespace {

// A person may have to find a password; a hanging connection must still end.
constexpr milliseconds kDeadline(300'000);
// Far more than any answer of ours.
constexpr size_t kMaxOutput = 1U << 20;

Result<pid_t> spawn_ssh(const std::string& target, const std::string& command, int out) {
  std::array<std::string, 4> words = {"ssh", "--", target, command};
  std::array<char*, 5> argv{};
  std::ranges::transform(words, argv.begin(), [](std::string& word) { return word.data(); });
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, out, 1);
  pid_t pid = -1;
  int e = ::posix_spawnp(&pid, "ssh", &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (e == ENOENT)
    return std::unexpected(
        Error(Errc::kNotFound, "cannot run ssh: it is not installed, or not in PATH")
            .with_remedy("install the OpenSSH client, or pin by hand: transship peer add NAME ADDRESS"));
  if (e != 0) return fail_errno(e, "run ssh");
  return pid;
}

Result<std::string> read_until_closed(int fd, Deadline deadline) {
  std::string out;
  std::array<std::byte, 4096> buffer{};
  while (true) {
    pollfd p{fd, POLLIN, 0};
    int ready = ::poll(&p, 1, static_cast<int>(deadline.remaining().count()));
    if (ready < 0 && errno != EINTR) return fail_errno(errno, "wait for ssh");
    if (ready == 0) return fail(Errc::kTimeout, "ssh did not end within {} s", kDeadline.count() / 1000);
    if (ready < 0) continue;
    TS_TRY_ASSIGN(size_t got, read_some(fd, buffer));
    if (got == 0) return out;
    out.append(reinterpret_cast<const char*>(buffer.data()), got);
    if (out.size() > kMaxOutput) return fail(Errc::kPeerProtocol, "ssh printed more than {} bytes", kMaxOutput);
  }
}

}  // namespace

Result<RemoteOutput> run_over_ssh(const std::string& target, const std::string& command) {
  TS_TRY_ASSIGN(Pipe pipe, make_pipe());
  TS_TRY_ASSIGN(pid_t pid, spawn_ssh(target, command, pipe.write.get()));
  pipe.write.reset();
  auto out = read_until_closed(pipe.read.get(), Deadline::in(kDeadline));
  if (!out) ::kill(pid, SIGKILL);
  int status = 0;
  pid_t waited = retry_eintr([&] { return ::waitpid(pid, &status, 0); });
  if (!out) return std::unexpected(std::move(out).error().context("ssh " + target));
  if (waited < 0) return fail_errno(errno, "wait for ssh");
  RemoteOutput result;
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.out = std::move(*out);
  // ssh's own code for "no connection"; what it said stands on the terminal already.
  if (result.exit_code == 255)
    return std::unexpected(
        Error(Errc::kUnavailable, fmt::format("ssh could not log in to {}; its own words are above", target))
            .with_remedy(fmt::format("make this work first: ssh {} true", target)));
  return result;
}

std::string shell_quote(const std::string& word) {
  std::string out = "'";
  for (char c : word) out += c == '\'' ? "'\\''" : std::string(1, c);
  return out + "'";
}

}  // namespace transship::cli
