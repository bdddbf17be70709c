// Runs a target on its corpus, with any compiler: what the unit tests do. Writes seeds, too.
//
//   fuzz_replay TARGET PATH...           each PATH an input, or a directory of them
//   fuzz_replay --write-seeds DIRECTORY  DIRECTORY/TARGET/seed-N of every target
//   fuzz_replay --list
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "base/fd.h"
#include "fuzz/target.h"
#include "sys/file.h"

namespace transship::fuzz {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxInput = 1U << 20;

std::vector<fs::path> inputs(const std::vector<std::string>& paths) {
  std::vector<fs::path> files;
  for (const auto& path : paths) {
    if (!fs::is_directory(path)) {
      files.emplace_back(path);
      continue;
    }
    for (const auto& entry : fs::directory_iterator(path)) files.push_back(entry.path());
  }
  std::ranges::sort(files);
  return files;
}

// The name comes before the run: an input that ends the program is the last one named.
Result<> replay(const Target& target, const std::vector<std::string>& paths) {
  auto files = inputs(paths);
  for (const auto& file : files) {
    TS_TRY_ASSIGN(auto bytes, sys::read_file(file, kMaxInput));
    fmt::print("{}\n", file.string());
    std::fflush(stdout);
    target.run(bytes);
  }
  if (files.empty()) return fail(Errc::kNotFound, "{} has no inputs", target.name);
  fmt::print("{}: {} inputs\n", target.name, files.size());
  return {};
}

Result<> run(const std::vector<std::string>& args) {
  if (args.size() == 2 && args[0] == "--write-seeds") return write_seeds(args[1]);
  if (args.size() == 1 && args[0] == "--list") {
    for (const auto& target : targets()) fmt::print("{}\n", target.name);
    return {};
  }
  const auto* target = args.empty() ? nullptr : find_target(args[0]);
  if (target == nullptr) return fail(Errc::kInvalidArgument, "usage: fuzz_replay TARGET PATH...");
  return replay(*target, {args.begin() + 1, args.end()});
}

}  // namespace
}  // namespace transship::fuzz

int main(int argc, char** argv) {
  spdlog::set_level(spdlog::level::off);
  auto done = transship::fuzz::run({argv + 1, argv + argc});
  if (done) return 0;
  fmt::print(stderr, "{}\n", done.error().message());
  return 1;
}
