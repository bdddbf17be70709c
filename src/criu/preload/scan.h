// CRIU's question which pages a mapping has (scan.cc).
#pragma once

namespace transship::criu_preload {

// The kernel tells which mapping an address is in (from Linux 6.11 on): then the question can be made shorter.
bool can_narrow_scans();

}  // namespace transship::criu_preload
