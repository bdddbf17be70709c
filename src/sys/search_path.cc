#include "sys/search_path.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

#include "base/text.h"

namespace transship::sys {
namespace {

constexpr const char* kUsualPlaces = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

bool can_be_run(const std::string& file) {
  struct stat st{};
  return ::stat(file.c_str(), &st) == 0 && S_ISREG(st.st_mode) && ::access(file.c_str(), X_OK) == 0;
}

}  // namespace

std::string search_path() {
  const char* path = ::secure_getenv("PATH");
  return path != nullptr && *path != '\0' ? path : kUsualPlaces;
}

Result<std::string> find_program(const std::string& name, const std::string& path) {
  if (name.contains('/')) {
    if (can_be_run(name)) return name;
    return fail(Errc::kNotFound, "{} is not a program", name);
  }
  for (const auto& dir : split(path, ':')) {
    auto file = fmt::format("{}/{}", dir, name);
    if (!dir.empty() && can_be_run(file)) return file;
  }
  return fail(Errc::kNotFound, "there is no program {} in PATH", name);
}

}  // namespace transship::sys
