// Files that every engine makes anew where a container is: its host names, its resolvers. CRIU refuses to open a file
// that has another size than it had, which is right for the container's own and wrong for these.
#pragma once
#include <cstdint>
#include <string>

#include "base/result.h"

namespace transship::criu {

// On the destination, before the restore: whoever had one of them open gets what this host's engine has made of it. How
// many open files that concerns. Takes images from a peer. After a failure the directory is of no use any more.
Result<uint32_t> accept_engine_files(const std::string& images_dir);

}  // namespace transship::criu
