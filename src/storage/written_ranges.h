// Who knows what was written to a file, so that only that is read.
#pragma once
#include <optional>
#include <vector>

#include "base/result.h"
#include "storage/extent.h"

namespace transship::storage {

// Which ranges of a file may have changed since it was asked for last. One thread.
//
// By inode: what one name of it has taken is gone for all others. The sender sees to that (KnownFiles), and to
// everything that shows in the size or in where the holes are.
class WrittenRanges {
 public:
  virtual ~WrittenRanges() = default;
  // Before the file is first read: whatever is written afterwards, a later take() names. May be called again.
  virtual Result<> follow(int fd) = 0;
  // Before it is read again. What is written after this call is named by the next one; with `settle` false nobody
  // writes any more. Ranges too many, too large or beyond the end do no harm. Nothing: not known, read all of it.
  virtual Result<std::optional<std::vector<Extent>>> take(int fd, bool settle) = 0;
};

}  // namespace transship::storage
