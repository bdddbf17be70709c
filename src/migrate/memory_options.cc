#include "migrate/memory_options.h"

namespace transship::migrate {

Result<MemoryOptions> memory_options(const local::MoveRequest& request) {
  MemoryOptions options;
  if (!request.mode().empty()) options.mode = plan::parse_memory_mode(request.mode());
  if (options.mode == plan::MemoryMode::kInvalid)
    return fail(Errc::kInvalidArgument, "mode \"{}\": there are auto, pre-copy, post-copy and stop-copy",
                request.mode().substr(0, 64));
  if (!request.compress().empty()) {
    TS_TRY_ASSIGN(options.compress, memory::parse_compression_policy(request.compress().substr(0, 64)));
  }
  options.max_gap_given = request.max_gap_ms() != 0;
  if (options.max_gap_given) options.max_gap_ms = request.max_gap_ms();
  options.may_throttle = !request.no_throttle();
  options.allow_post_copy = request.allow_post_copy();
  return options;
}

}  // namespace transship::migrate
