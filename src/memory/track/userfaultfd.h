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
// From then on its pages can be protected. Costs a microsecond; doing it twice does no harm. Pages may bear marks of an
// earlier registration that say that nothing was written: see unprotect_range().
Result<Registration> register_range(int uffd, uint64_t start, uint64_t end);
// Registered memory: all of its pages count as written. False: part of it is not registered (any more), and how far it
// was done is not known. Milliseconds per GiB that is there.
//
// Why: mremap() drops the registration of what it moves. When the moved mapping joins a neighbour in its new place, the
// neighbour loses its own with it, but keeps its marks (seen on Linux 6.18). From then on a page is written without
// lifting the mark.
Result<bool> unprotect_range(int uffd, uint64_t start, uint64_t end);
// False: the program has executed another one, or has ended. `page`: below the limit of addresses, and better one where
// nothing is mapped: it counts as written afterwards.
Result<bool> address_space_lives(int uffd, uint64_t page);

}  // namespace transship::memory
