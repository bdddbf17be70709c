// Parts of a file, and which of them have data.
#pragma once
#include <cstdint>
#include <vector>

#include "base/result.h"

namespace transship::storage {

struct Extent {
  int64_t offset = 0;
  int64_t length = 0;
  int64_t end() const { return offset + length; }
};

// Where the data of the first `size` bytes is, in order; empty when all of it is a hole. The whole of it where the file
// system cannot tell.
Result<std::vector<Extent>> data_extents(int fd, int64_t size);

}  // namespace transship::storage
