// What /proc says of another process's address space and of its place in the pid namespaces.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "sys/cgroup.h"

namespace transship::memory {

// One line of /proc/PID/maps.
struct Vma {
  uint64_t start = 0;
  uint64_t end = 0;
  bool readable = false;
  bool writable = false;
  bool executable = false;
  bool shared = false;
  uint64_t offset = 0;  // of its first byte in the file
  uint32_t device_major = 0;
  uint32_t device_minor = 0;
  uint64_t inode = 0;
  std::string path;  // as the kernel prints it: a path, "[heap]", "/memfd:x (deleted)", empty
  uint64_t bytes() const { return end - start; }
  bool operator==(const Vma&) const = default;
};

// Pure. Lines that make no sense are skipped.
std::vector<Vma> parse_vmas(std::string_view maps);
// kNotFound when the process has ended (a zombie has no address space: the list is empty then).
Result<std::vector<Vma>> read_vmas(pid_t pid);

// Memory of the kernel's own that no program writes and no image holds: [vvar], [vsyscall], [uprobes]…
bool is_kernel_area(const Vma& vma);
// CRIU puts all of its pages into the image whatever the page tables say: [vdso] and rings of libaio.
bool is_always_dumped(const Vma& vma);
// Private memory that belongs into the image of its process as far as it was written.
bool is_private_memory(const Vma& vma);

// The process's pid as it sees itself: what CRIU names its images after. kNotFound when it has ended.
Result<uint64_t> innermost_pid(pid_t pid);
// Processes by that pid; who ends meanwhile is left out.
Result<std::map<uint64_t, pid_t>> tasks_by_inner_pid(const sys::Cgroup& cgroup);
// "NSpid:" of a status file; 0 when there is none.
uint64_t parse_innermost_pid(std::string_view status);

// Descriptors of a process that decide how its memory can be followed.
struct MemoryDescriptors {
  bool userfaultfd = false;  // of its own
  bool io_uring = false;     // its registered buffers are written without a page fault
  bool direct_io = false;    // O_DIRECT: reads that are under way are written without a page fault
};
// As far as it can be read; a process that ends meanwhile has none.
MemoryDescriptors memory_descriptors(pid_t pid);

// Both run in one address space (vfork, CLONE_VM). False when that cannot be said.
bool same_address_space(pid_t a, pid_t b);

}  // namespace transship::memory
