// Mappings that come, go, grow, move and are cut.
#pragma once
#include <cstdint>

namespace churn {

// One thread each; never returns.
[[noreturn]] void change_regions_for_ever(uint64_t seed);

}  // namespace churn
