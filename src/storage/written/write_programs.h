// The BPF programs of WriteEvents.
#pragma once
#include <bpf/btf.h>

#include <cstdint>
#include <string>

#include "base/result.h"
#include "storage/written/bpf_code.h"

namespace transship::storage {

// Where this kernel has what the programs read, in bytes; and the tracepoints' types, which they are attached by.
struct KernelLayout {
  uint32_t folio_index = 0, mapping_host = 0, inode_number = 0;
  uint32_t iocb_file = 0, iocb_position = 0, file_inode = 0, iter_is_source = 0;
  uint32_t folio_mapping = 0, task_flags = 0;
  uint32_t dirty_folio = 0, dropped_folio = 0, direct_begin = 0, direct_complete = 0;
};
// kKernelFeatureMissing: no types, or a tracepoint that is not there or not as it was (Linux 6.5 and later have them).
Result<KernelLayout> kernel_layout(const std::string& types);

struct EventMaps {
  int followed, gathered, counters, reads;
};
BpfCode dirty_folio_program(const KernelLayout& layout, const EventMaps& maps);
BpfCode dropped_folio_program(const KernelLayout& layout, const EventMaps& maps);
BpfCode direct_complete_program(const KernelLayout& layout, const EventMaps& maps);
BpfCode direct_begin_program(const KernelLayout& layout, const EventMaps& maps);

}  // namespace transship::storage
