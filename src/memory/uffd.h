// The calls on a userfaultfd that fill memory of another process, their results sorted by what is to be done next.
#pragma once
#include <cstddef>
#include <cstdint>

namespace transship::memory {

enum class FillEnd : uint8_t {
  kDone,
  kExists,    // the first page not filled is there already
  kEvents,    // the process is changing its mappings: read its events, then try again
  kUnmapped,  // not one mapping that is registered: not yet, not any more, or the range crosses two of them
  kGone,      // the process has ended
  kNoMemory,  // its memory limit, or the host's
  kFailed,    // anything else: see `error`
};

struct FillResult {
  uint64_t bytes = 0;  // filled, from the start of the range on
  FillEnd end = FillEnd::kDone;
  int error = 0;  // errno
};

// Whoever waits for one of the filled pages is woken. Thread-safe.
FillResult uffd_copy(int uffd, uint64_t to, const std::byte* from, uint64_t bytes);
FillResult uffd_zero(int uffd, uint64_t to, uint64_t bytes);
// Makes whoever waits look again.
bool uffd_wake(int uffd, uint64_t address, uint64_t bytes);
// The same wherever somebody may wait: also for what whoever has read the faults did not live to answer. False: the
// kernel does not say where the process's addresses begin and end.
bool uffd_wake_all(int uffd);
bool is_uffd(int fd);

}  // namespace transship::memory
