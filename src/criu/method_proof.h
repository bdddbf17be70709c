// Tries a way of dumping out on a small process of our own.
#pragma once
#include <string>

#include "base/cancel.h"
#include "base/result.h"
#include "criu/memory_method.h"

namespace transship::criu {

// Dumps a `cat` of ours with `method` (kParent or kSoftDirty) and lets it go on. An error says what was not as it must
// be: its memory has to come out as holes, exactly where it has pages, and must be the same afterwards. `dir` is made
// and removed again.
Result<> prove_method(const std::string& criu, MemoryMethod method, const KdatPatch& patch, const std::string& dir,
                      Deadline deadline);

}  // namespace transship::criu
