// Shared memory, which CRIU always writes in full: what the destination gets by other ways is taken out of the images.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "criu/lazy_images.h"

namespace transship::criu {

// Those pages of `range` in the shared object `id` that the destination has, or gets, by other ways; each with the
// content it had at the dump. Ascending, and within `range`.
using HeldElsewhere = std::function<std::vector<ImageRange>(uint64_t id, ImageRange range)>;

// On the source, after the dump and before the images are sent. What is held elsewhere is missing afterwards, as if
// CRIU had left it out; prepare_lazy_restore() on the other host puts it back. Nothing is copied unless an object is
// held in part: pages files that are of no use any more go to `spare_dir` on the same file system (to free them takes
// time, and the tasks stand still). Returns the number of pages left out. After a failure the images are of no use any
// more.
Result<uint64_t> leave_out_shared(const std::string& images_dir, const std::string& spare_dir,
                                  const HeldElsewhere& held);

}  // namespace transship::criu
