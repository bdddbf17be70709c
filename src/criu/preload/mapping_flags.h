// What /proc/PID/smaps tells in its lines "VmFlags:", without the kernel's looking at every page for it.
#pragma once
#include <cstdint>

namespace transship::criu_preload {

// Where this kernel has it, from its BTF: the daemon looks it up (criu/mapping_layout.h). "ITERATOR START END FLAGS":
// the id of bpf_iter_task_vma, and offsets in struct vm_area_struct.
inline constexpr const char* kLayoutVariable = "TRANSSHIP_VMA_LAYOUT";

// Loads the small BPF program that is asked later, and tries it on this very process, with mappings of every kind it
// can make: what comes out must be what the kernel prints. False: as if there were none of this.
bool prepare_mapping_flags(const char* layout);

// The content of a /proc/PID/smaps reduced to the lines that begin a mapping, and VmFlags; in memory, at its start.
// `maps` is the process's /proc/PID/maps, unread. -1: it cannot be told (a mapping came or went meanwhile, it has flags
// that were not tried, or prepare_mapping_flags() has not been successful).
int make_smaps(int maps, int pid);

}  // namespace transship::criu_preload
