// transship: what an operator types. Parses, asks the daemon on this host, renders; decides nothing itself.
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <exception>
#include <iostream>

#include "cli/args.h"
#include "cli/commands.h"
#include "cli/grpc_daemon.h"
#include "cli/move_session.h"

namespace {

using namespace transship;

std::optional<std::string> ask_on_terminal(const std::string& prompt) {
  if (::isatty(STDIN_FILENO) != 1) return std::nullopt;
  (void)write_all(STDERR_FILENO, prompt);
  std::string answer;
  std::getline(std::cin, answer);
  return answer;
}

// An answer that nobody can read is none. A reader that has seen enough (`| head`) is no failure, and how a move ended
// is told by its code all the same.
int check_output(const Result<>& written, bool is_move, int code) {
  if (written || written.error().sys_errno() == EPIPE) return code;
  (void)write_all(STDERR_FILENO, fmt::format("transship: standard output: {}\n", written.error().message()));
  return code == 0 && !is_move ? cli::exit_code(cli::Outcome::kFailed) : code;
}

int run(const std::vector<std::string>& args) {
  auto parsed = cli::parse_arguments(args);
  if (auto* stop = std::get_if<cli::Stop>(&parsed)) {
    (void)write_all(STDERR_FILENO, stop->err);
    return check_output(write_all(STDOUT_FILENO, stop->out), false, stop->exit_code);
  }
  Result<> lost;
  cli::Screen out = cli::Screen::on(STDOUT_FILENO, &lost);
  cli::Screen err = cli::Screen::on(STDERR_FILENO);
  cli::Environment environment{
      .out = out,
      .err = err,
      .connect = cli::connect_daemon,
      .watch_signals = cli::watch_signals,
      // Nothing is buffered and nothing is ours to clean up: the daemon sees the connection end.
      .leave_now = [](cli::Outcome outcome) { ::_exit(cli::exit_code(outcome)); },
      .ask = ask_on_terminal,
      .run_remote = cli::run_over_ssh,
  };
  const auto& arguments = std::get<cli::Arguments>(parsed);
  int code = cli::exit_code(cli::run_command(environment, arguments));
  return check_output(lost, arguments.command == cli::Command::kMove, code);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run({argv + 1, argv + argc});
  } catch (const std::exception& e) {
    std::fprintf(stderr, "transship: a bug, or memory ran out: %s\n", e.what());
    return cli::exit_code(cli::Outcome::kFailed);
  }
}
