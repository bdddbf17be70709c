// Asynchronous write-protection through a userfaultfd: the kernel lifts the protection of a page by itself when it is
// written, and remembers that it was.
#pragma once
#include <cstdint>

#include "base/result.h"

namespace transship::memory {

// The first call on a new one. kKernelFeatureMissing before Linux 6.7.
Result<> enable_write_protection(int uffd);

enum class Registration {
  kDone,
  kBusy,         // the memory, or part of it, belongs to a userfaultfd of the program's own
  kVanished,     // nothing there that could be registered (unmapped meanwhile, a device): try no more this time
  kOtherMemory,  // the address space is no more: the program has executed another one, or has ended
};
// From then on its pages can be protected. Costs a microsecond; doing it twice does no harm.
Result<Registration> register_range(int uffd, uint64_t start, uint64_t end);

}  // namespace transship::memory
