// What tracking and reading cost on this machine. Only track_drill uses this.
#pragma once
#include <cstddef>

#include "base/cancel.h"

namespace transship::memory {

// With a child of `bytes` of memory, in small pages and then in huge ones. Prints a JSON line for each step: wall
// times, and processor time of this thread, which tells something on a busy machine too.
Result<> measure_tracking(size_t bytes, const Cancel& cancel);

}  // namespace transship::memory
