// Which mounts there are below a directory. One thread.
#pragma once
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace transship::storage {

class MountsBelow {
 public:
  // Of the mount namespace of the caller. `dir_fd` is borrowed.
  static Result<MountsBelow> create(int dir_fd);
  // Whether there are others than at the last call; true at the first one.
  Result<bool> changed();

 private:
  MountsBelow(int dir_fd, Fd mounts) : dir_fd_(dir_fd), mounts_(std::move(mounts)) {}

  int dir_fd_;
  Fd mounts_;
  std::string path_;
  std::string below_;
};

}  // namespace transship::storage
