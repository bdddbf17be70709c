// What the CRIU of this host is and can do.
#pragma once
#include <string>

#include "base/cancel.h"
#include "base/result.h"

namespace transship::criu {

// As CRIU counts: 40201 is 4.2.1.
struct Version {
  int number = 0;
  std::string text;
};
// kNotFound when there is no such program.
Result<Version> version(const std::string& criu, Deadline deadline);
// `criu check`: can it work on this kernel at all? Also makes CRIU probe the kernel now instead of in the first dump
// (it keeps the result in /run/criu.kdat). The error quotes what it says.
Result<> check(const std::string& criu, Deadline deadline);
// One feature by CRIU's name for it ("network_lock_nftables", "pagemap_scan"…). kUnavailable when CRIU could not be
// asked.
Result<bool> has_feature(const std::string& criu, const std::string& feature, Deadline deadline);

// Writes cpuinfo.img, the source CPU's features, into `dir`.
Result<> dump_cpuinfo(const std::string& criu, const std::string& dir, Deadline deadline);
// Can tasks from the CPU described in `dir` run here? kKernelFeatureMissing with CRIU's words when not.
Result<> check_cpuinfo(const std::string& criu, const std::string& dir, Deadline deadline);

}  // namespace transship::criu
