#include "gate/command_line.h"

#include <algorithm>
#include <array>
#include <optional>

namespace transship::gate {
namespace {

constexpr std::array<std::string_view, 5> kGlobalsWithValue = {"--log", "--log-format", "--root", "--criu",
                                                               "--rootless"};
constexpr std::array<std::string_view, 6> kCreateWithValue = {
    "--bundle", "-b", "--console-socket", "--pid-file", "--preserve-fds", "--pidfd-socket"};
constexpr std::array<std::string_view, 5> kRestoreKnows = {"--bundle", "-b", "--console-socket", "--pid-file",
                                                           "--no-pivot"};

// One option: its name, and its value when it has one.
struct Option {
  std::string name;
  std::optional<std::string> value;
};

// Takes the option at args[at] apart, and steps over it.
template <size_t N>
Option take_option(const std::vector<std::string>& args, size_t& at,
                   const std::array<std::string_view, N>& with_value) {
  const std::string& word = args[at++];
  auto equals = word.find('=');
  Option o{word.substr(0, equals), std::nullopt};
  // runc takes one dash for two.
  if (o.name.size() > 2 && o.name[0] == '-' && o.name[1] != '-') o.name.insert(0, "-");
  if (equals != std::string::npos)
    o.value = word.substr(equals + 1);
  else if (std::ranges::contains(with_value, o.name) && at < args.size())
    o.value = args[at++];
  return o;
}

bool is_option(const std::string& word) { return word.size() > 1 && word[0] == '-'; }

}  // namespace

CommandLine parse_command_line(const std::vector<std::string>& args) {
  CommandLine line;
  line.bundle = ".";
  size_t at = 0;
  while (at < args.size() && is_option(args[at])) {
    auto o = take_option(args, at, kGlobalsWithValue);
    if (o.name == "--log") line.log = o.value.value_or("");
    if (o.name == "--root") line.root = o.value.value_or(line.root);
    if (o.name == "--log-format") line.log_json = o.value == "json";
  }
  line.globals.assign(args.begin(), args.begin() + static_cast<long>(at));
  if (at == args.size()) return line;
  line.verb = args[at++];
  line.rest.assign(args.begin() + static_cast<long>(at), args.end());
  // Options end at the first word that is none; the verbs that we look into take one such word, the ID.
  if (!line.rest.empty() && !is_option(line.rest.back())) line.id = line.rest.back();
  for (size_t i = 0; i < line.rest.size() && is_option(line.rest[i]);) {
    auto o = take_option(line.rest, i, kCreateWithValue);
    if (o.name == "--bundle" || o.name == "-b") line.bundle = o.value.value_or(".");
  }
  return line;
}

std::vector<std::string> restore_arguments(const CommandLine& create, const std::string& images_dir,
                                           const std::string& work_dir, const std::string& runc_log) {
  std::vector<std::string> args = create.globals;
  // The last one of each counts.
  args.insert(args.end(), {"--log", runc_log, "--log-format", "json", "restore", "--detach", "--tcp-established",
                           "--file-locks", "--image-path", images_dir, "--work-path", work_dir});
  for (size_t i = 0; i < create.rest.size() && is_option(create.rest[i]);) {
    auto o = take_option(create.rest, i, kCreateWithValue);
    if (!std::ranges::contains(kRestoreKnows, o.name)) continue;
    args.push_back(o.value ? o.name + "=" + *o.value : o.name);
  }
  args.push_back(create.id);
  return args;
}

}  // namespace transship::gate
