// The CPU's features as CRIU describes them, to compare two hosts before anything moves.
#pragma once
#include <string>

#include "migrate/services.h"

namespace transship::migrate {

// CRIU's cpuinfo.img of this host.
Result<std::string> cpuinfo_image(const Settings& settings);
// Can tasks from the CPU that `image` describes run here? kKernelFeatureMissing with CRIU's words when not.
Result<> check_cpuinfo(const Settings& settings, const std::string& image);

}  // namespace transship::migrate
