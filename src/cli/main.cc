// transship: what an operator types. Parses, asks the daemon on this host, renders; decides nothing itself.
#include <unistd.h>

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

int run(const std::vector<std::string>& args) {
  auto parsed = cli::parse_arguments(args);
  if (auto* stop = std::get_if<cli::Stop>(&parsed)) {
    (void)write_all(STDOUT_FILENO, stop->out);
    (void)write_all(STDERR_FILENO, stop->err);
    return stop->exit_code;
  }
  cli::Screen out = cli::Screen::on(STDOUT_FILENO);
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
  return cli::exit_code(cli::run_command(environment, std::get<cli::Arguments>(parsed)));
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
