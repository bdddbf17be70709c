// The kernel's events about one file system (fanotify), as they are. One thread at a time.
#pragma once
#include <cstddef>
#include <functional>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "storage/watch/file_id.h"

namespace transship::storage {

struct FileEvent {
  bool lost = false;   // some events were lost, or this one cannot be understood: anything may have changed
  bool names = false;  // a name of `dir` came, went or stands for another file
  bool file = false;   // contents or attributes of `object` changed
  FileId dir = 0;
  std::string_view name;  // valid during the call only
  FileId object = 0;      // 0: only known by its name
};

class EventQueue {
 public:
  // Everything that happens from now on to the file system of `root_fd`, by whatever mount. kKernelFeatureMissing says
  // why there can be no such queue. `unlimited`: the kernel keeps any number of events, not 16384.
  static Result<EventQueue> create(int root_fd, bool unlimited);
  // Readable when there are events.
  int fd() const { return fd_.get(); }
  // How many events there are; later ones may have been put together with earlier ones.
  size_t waiting() const;
  // Calls `each` for the events of one read; how many there were, 0 when there is none. Does not wait.
  Result<size_t> read(const std::function<void(const FileEvent&)>& each);

 private:
  explicit EventQueue(Fd fd);

  Fd fd_;
  std::vector<char> buffer_;
};

}  // namespace transship::storage
