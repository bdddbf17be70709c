// How a dump deals with memory that somebody else carries: which ways this host's CRIU and kernel allow.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "base/cancel.h"
#include "base/result.h"

namespace transship::criu {

// From the slowest to the fastest while the tasks are frozen; per GiB of memory in pages of 4 KiB.
enum class MemoryMethod : uint8_t {
  kFull = 0,       // CRIU copies all of it into the images
  kLazyPages = 1,  // CRIU pins it in pipes (90 ms), copies nothing
  // CRIU believes that an earlier dump has all of it, and that nothing was written since (10 ms). The earlier dump is
  // made up by us. For kernels that do not track soft-dirty pages; CRIU is shown a copy of its cache of kernel features
  // that says otherwise. Only CRIU processes of ours see that copy.
  kParent = 2,
  kSoftDirty = 3,  // the same on kernels that do track them: their marks are cleared before the dump
};
std::string_view method_name(MemoryMethod method);

// Where CRIU's cache of kernel features (/run/criu.kdat) says that soft-dirty tracking works.
struct KdatPatch {
  uint64_t magic = 0;  // its first 8 bytes: CRIU's build
  size_t offset = 0;
};

struct MethodFinding {
  MemoryMethod method = MemoryMethod::kFull;
  KdatPatch kdat;   // for kParent
  std::string why;  // one sentence why a better one is not possible; empty: it is the best there is
};

// The best method that proves itself: kParent and kSoftDirty dump a small process of ours, whose memory must come out
// as holes and must not change. `scratch_dir` exists and is ours; nothing stays in it. Takes about 150 ms the first
// time; the result is remembered until this process ends (unless the deadline cut it short). Thread-safe.
MethodFinding probe_memory_method(const std::string& criu, const std::string& scratch_dir, Deadline deadline);

}  // namespace transship::criu
