#include <filesystem>

#include "fuzz/target.h"
#include "sys/file.h"

namespace transship::fuzz {

Result<> write_seeds(const std::string& directory) {
  for (const auto& target : targets()) {
    auto into = std::filesystem::path(directory) / target.name;
    TS_TRY(sys::make_dirs(into, 0755));
    size_t number = 0;
    for (const auto& seed : target.seeds())
      TS_TRY(sys::write_file_atomic(into / fmt::format("seed-{:02}", ++number), seed, 0644));
  }
  return {};
}

}  // namespace transship::fuzz
