// Shared memory that is there already when CRIU restores: CRIU maps the file that it inherits, instead of making one
// and copying pages from its images into it. (Since 4.2 it treats anonymous shared memory as a memfd that nobody has
// open.)
#pragma once
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "criu/lazy_images.h"

namespace transship::criu {

// One object that CRIU expects to inherit.
struct InheritedMemory {
  uint64_t id = 0;    // of the object in the images
  std::string key;    // by which CRIU knows the descriptor (inherit_fd)
  uint64_t size = 0;  // bytes that the file must have
  uint32_t uid = 0, gid = 0, mode = 0;
  std::vector<ImageRange> pages;  // that it had when it was dumped; all others are holes. Ascending
};

// On the destination, the images being complete but for memory: has them expect those of the objects `ids` that can be
// inherited, and forget about their pages. Not inherited are memfds that a program made itself (it may have them open,
// with a position and flags of its own), System V segments, huge pages, and what CRIU wrote pages of. Like
// prepare_lazy_restore() it takes images from a peer. After a failure the directory is of no use any more.
Result<std::vector<InheritedMemory>> expect_inherited(const std::string& images_dir, const std::set<uint64_t>& ids);

}  // namespace transship::criu
