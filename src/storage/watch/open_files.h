// Files that processes could be writing to without an event of it.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <unordered_set>
#include <vector>

#include "base/result.h"

namespace transship::storage {

// Inodes of the plain files, of any file system, that a process of `pids` has open for writing. (One that is mapped
// only is among shared_writable_inodes(); its last unmapping is an event.)
Result<std::unordered_set<uint64_t>> inodes_open_for_writing(const std::vector<pid_t>& pids);

}  // namespace transship::storage
