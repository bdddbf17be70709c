// The command line of an OCI runtime, as engines call it: `runc [global options] VERB [options] ID`. Only what the gate
// needs is understood; everything is kept as it came.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace transship::gate {

struct CommandLine {
  std::vector<std::string> globals;  // options before the verb, as given
  std::string root = "/run/runc";    // --root: where the runtime keeps what it knows of its containers
  std::string verb;                  // empty for `--version` and the like
  std::vector<std::string> rest;     // everything after the verb
  // Of the verbs that have them.
  std::string id;
  std::string bundle;  // "." when not given
  std::string log;     // --log
  bool log_json = false;
};

CommandLine parse_command_line(const std::vector<std::string>& args);

// `create` turned into the `restore` that the gate runs in its place; `criu_log` gets what runc reports. Options of
// create that restore does not know are left out: --preserve-fds (the tasks' descriptors come out of the images),
// --no-new-keyring, --pidfd-socket.
std::vector<std::string> restore_arguments(const CommandLine& create, const std::string& images_dir,
                                           const std::string& work_dir, const std::string& runc_log);

}  // namespace transship::gate
