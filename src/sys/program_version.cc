#include "sys/program_version.h"

#include <sys/stat.h>

#include <map>

#include "base/mutex.h"
#include "sys/search_path.h"

namespace transship::sys {
namespace {

struct Known {
  Mutex mutex;
  std::map<std::string, std::string> outputs GUARDED_BY(mutex);  // by identity
};

Known& known() {
  static Known k;
  return k;
}

std::string identity_of(const std::string& path) {
  struct stat st{};
  if (::stat(path.c_str(), &st) != 0 || !S_ISREG(st.st_mode)) return {};
  return fmt::format("{} {}:{} {} {}.{} {}.{}", path, st.st_dev, st.st_ino, st.st_size, st.st_mtim.tv_sec,
                     st.st_mtim.tv_nsec, st.st_ctim.tv_sec, st.st_ctim.tv_nsec);
}

}  // namespace

std::string program_identity(const std::string& program) {
  auto file = find_program(program);
  return file ? identity_of(*file) : std::string();
}

Result<std::string> version_output(const std::string& program, Deadline deadline) {
  auto identity = program_identity(program);
  if (!identity.empty()) {
    MutexLock lock(known().mutex);
    if (auto it = known().outputs.find(identity); it != known().outputs.end()) return it->second;
  }
  TS_TRY_ASSIGN(auto result, run_ok({.argv = {program, "--version"}, .deadline = deadline}));
  MutexLock lock(known().mutex);
  if (!identity.empty()) known().outputs[identity] = result.out;
  return result.out;
}

}  // namespace transship::sys
