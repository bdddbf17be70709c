// Loaded into somebody else's program: C library calls only.
#include "criu/preload/process_of.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace transship::criu_preload {
namespace {

// What is behind the last slash, which goes.
char* cut_last(char* path) {
  char* slash = std::strrchr(path, '/');
  if (slash == nullptr) return nullptr;
  *slash = '\0';
  return slash + 1;
}

}  // namespace

int process_of(int fd, const char* file) {
  char name[64], target[256];
  (void)std::snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  auto length = ::readlink(name, target, sizeof target - 1);
  if (length <= 0) return 0;
  target[length] = '\0';
  char* last = cut_last(target);
  if (last != nullptr && file != nullptr) last = std::strcmp(last, file) == 0 ? cut_last(target) : nullptr;
  if (last == nullptr) return 0;
  char* end = nullptr;
  auto pid = std::strtol(last, &end, 10);
  return pid > 0 && *end == '\0' ? static_cast<int>(pid) : 0;
}

}  // namespace transship::criu_preload
