// What makes CRIU's dump shorter: libtransship-criu.so in its process (preload/), which answers two of its questions in
// the kernel's place. Both are tried in that process each time, and CRIU asks the kernel where one of them fails.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/cancel.h"
#include "base/result.h"

namespace transship::criu {

// As probe_shortcuts() tells them.
inline constexpr std::string_view kAllShortcuts = "mappings, scans";

struct Shortcuts {
  bool can_mappings = false, can_scans = false;  // tried, and in force
  uint32_t mappings = 0, scans = 0;              // how often CRIU was answered
};

// What CRIU is to be started with, "NAME=value": `library`, and `report_file`, which is made anew for read_shortcuts().
Result<std::vector<std::string>> shortcut_environment(const std::string& library, const std::string& report_file);
Result<Shortcuts> read_shortcuts(const std::string& report_file);
// What a dump had of them: "mappings", "scans".
std::vector<std::string> used_shortcuts(const Shortcuts& shortcuts);

// What is in force when `criu` is started here, one line: "mappings, scans", or what is missing and why. `library` may
// be empty. `scratch_dir` exists and is ours; nothing stays in it. Takes some 50 ms.
std::string probe_shortcuts(const std::string& criu, const std::string& library, const std::string& scratch_dir,
                            Deadline deadline);

}  // namespace transship::criu
