// transship-runtime: an OCI runtime that is runc, except for containers that are being moved here. See protocol.h for
// what happens then, and criu_role.h for its other role.
#include <unistd.h>

#include <cstring>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/fd.h"
#include "gate/command_line.h"
#include "gate/criu_role.h"
#include "gate/gated_create.h"
#include "gate/protocol.h"
#include "sys/urgent.h"

#ifndef TS_VERSION
#define TS_VERSION "unknown"
#endif

namespace transship::gate {
namespace {

// Where the engine looks for the reason: its log file if it named one, and stderr.
int report(const CommandLine& line, const Error& error) {
  auto text = error.remedy().empty() ? error.message() : fmt::format("{}; {}", error.message(), error.remedy());
  text = "transship-runtime: " + text;
  if (!line.log.empty()) {
    if (auto log = open_file(line.log, O_WRONLY | O_APPEND | O_CREAT, 0644)) {
      char time[32] = "";
      std::time_t now = std::time(nullptr);
      tm utc{};
      (void)std::strftime(time, sizeof time, "%Y-%m-%dT%H:%M:%SZ", ::gmtime_r(&now, &utc));
      nlohmann::json j = {{"level", "error"}, {"msg", text}, {"time", time}};
      auto entry = line.log_json ? j.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
                                 : fmt::format("time=\"{}\" level=error msg={}", time, nlohmann::json(text).dump());
      (void)write_all(log->get(), entry + "\n");
    }
  }
  fmt::print(stderr, "{}\n", text);
  return 1;
}

int pass_through(const CommandLine& line, int argc, char** argv) {
  auto runc = real_runtime();
  if (!runc) return report(line, runc.error());
  std::vector<char*> args(argv, argv + argc);
  args[0] = runc->data();
  args.push_back(nullptr);
  ::execv(runc->c_str(), args.data());
  return report(line, Error(Errc::kUnavailable, fmt::format("start {}: {}", *runc, errno_text(errno))));
}

int run(int argc, char** argv) {
  auto role = std::filesystem::path(argv[0]).filename();
  if (role == "criu") return run_as_criu(argc, argv);
  auto line = parse_command_line(std::vector<std::string>(argv + 1, argv + argc));
  if (line.verb.empty() && !line.globals.empty() && (line.globals[0] == "--version" || line.globals[0] == "-v"))
    fmt::print("transship-runtime version {}\n", TS_VERSION);
  if (line.verb.empty()) (void)std::fflush(stdout);
  bool gated_verb = line.verb == "create" || line.verb == "start" || line.verb == "run" || line.verb == "restore";
  auto dir = gated_verb ? gate_dir_of(line.id) : std::string();
  if (dir.empty() || ::access(dir.c_str(), F_OK) != 0) return pass_through(line, argc, argv);
  Result<> result;
  if (line.verb == "create") {
    sys::Urgent urgent;  // the container stands still on its source
    std::error_code error;
    auto self = std::filesystem::read_symlink("/proc/self/exe", error).string();
    result = gated_create(line, dir, self);
  } else if (line.verb == "start") {
    result = gated_start(line, dir);
  } else {
    result = fail(Errc::kRefused, "container {} is being moved here; `{}` would make a second copy of it", line.id,
                  line.verb);
  }
  return result ? 0 : report(line, result.error());
}

}  // namespace
}  // namespace transship::gate

int main(int argc, char** argv) { return transship::gate::run(argc, argv); }
