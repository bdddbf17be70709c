// Who else on this host has a directory mounted: other containers, whoever made them.
#pragma once
#include <sys/types.h>

#include <string>
#include <vector>

#include "base/result.h"

namespace transship::sys {

struct MountUser {
  std::string path;  // of those that were asked for
  pid_t pid = 0;     // one process of the mount namespace in question
  std::string name;  // of that process
};

// Mount namespaces other than this process's and those of `own`, in which one of `paths`, or something below it, is
// mounted by itself; one row for each path and namespace. A namespace in which something above it is mounted (the whole
// disk, as services with a namespace of their own have it) is none. Symbolic links in `paths` are followed.
Result<std::vector<MountUser>> mount_users(const std::vector<std::string>& paths, const std::vector<pid_t>& own);

// "mnt:[4026531841]" of a process; empty when it is gone.
std::string mount_namespace_of(pid_t pid);

}  // namespace transship::sys
