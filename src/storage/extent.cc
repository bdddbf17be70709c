#include "storage/extent.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace transship::storage {

Result<std::vector<Extent>> data_extents(int fd, int64_t size) {
  std::vector<Extent> extents;
  int64_t at = 0;
  while (at < size) {
    off_t data = ::lseek(fd, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    if (data < 0 && errno == EINVAL) return std::vector<Extent>{{0, size}};  // this file system cannot tell
    if (data < 0) return fail_errno(errno, "look for holes");
    off_t hole = ::lseek(fd, data, SEEK_HOLE);
    if (hole < 0 && errno == ENXIO) break;  // shrank meanwhile
    if (hole < 0) return fail_errno(errno, "look for holes");
    int64_t end = std::min<int64_t>(hole, size);
    if (data < end) extents.push_back({data, end - data});
    at = hole;
  }
  return extents;
}

}  // namespace transship::storage
