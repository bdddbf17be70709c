// What libtransship-criu.so tells whoever started CRIU with it.
#pragma once
#include <cstdint>

namespace transship::criu_preload {

// Absolute path of a file of sizeof(Report) bytes, zeros. Without it nobody is told.
inline constexpr const char* kReportVariable = "TRANSSHIP_CRIU_REPORT";

// Written while CRIU runs, through a shared mapping: no call in the time in which tasks stand still.
struct Report {
  // Tried in CRIU's process when it started.
  uint32_t can_mappings;
  uint32_t can_scans;
  // How often CRIU was answered in the kernel's place.
  uint32_t mappings;
  uint32_t scans;
};

// In the library only. Never null: where no file was named it is the library's own.
Report& report();
// From its constructor, before anything is counted.
void open_report();

}  // namespace transship::criu_preload
