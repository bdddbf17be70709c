// Where this kernel keeps a process's mappings, for the library that CRIU is started with (preload/mapping_flags.h).
#pragma once
#include <string>

#include "base/result.h"

namespace transship::criu {

// As kLayoutVariable wants it, from /sys/kernel/btf/vmlinux: some 20 ms. kKernelFeatureMissing: the kernel has no BTF,
// or other mappings.
Result<std::string> mapping_layout();
// The same, found out once; empty: it could not be. Thread-safe.
const std::string& known_mapping_layout();

}  // namespace transship::criu
