// How the memory of one move is to travel: what the user asked for.
#pragma once
#include "base/result.h"
#include "memory/compression.h"
#include "plan/converge.h"
#include "proto/local.pb.h"

namespace transship::migrate {

struct MemoryOptions {
  plan::MemoryMode mode = plan::MemoryMode::kAuto;
  double max_gap_ms = 300;
  bool max_gap_given = false;  // then a move that cannot keep it ends before the freeze
  memory::CompressionPolicy compress = memory::CompressionPolicy::kAuto;
  bool may_throttle = true;
  bool allow_post_copy = false;
};

// kInvalidArgument names the values that there are.
Result<MemoryOptions> memory_options(const local::MoveRequest& request);

}  // namespace transship::migrate
