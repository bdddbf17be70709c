// Names of pages and where they belong. Values only.
#pragma once
#include <compare>
#include <cstddef>
#include <cstdint>

namespace transship::memory {

inline constexpr uint64_t kPageBytes = 4096;

// Something that has pages, named as CRIU's images name it, so that both hosts mean the same.
enum class SpaceKind : uint8_t {
  kInvalid = 0,
  kTask = 1,    // private memory of one process; id = its pid in the innermost pid namespace (pagemap-<id>.img)
  kShared = 2,  // one shared memory object; id = CRIU's shmid of it (pagemap-shmem-<id>.img)
};
struct SpaceId {
  SpaceKind kind = SpaceKind::kInvalid;
  uint64_t id = 0;
  auto operator<=>(const SpaceId&) const = default;
};

// `pages` pages from `address` on (a multiple of kPageBytes): a virtual address of the process, or the offset in the
// shared object.
struct PageRange {
  uint64_t address = 0;
  uint64_t pages = 0;
  uint64_t bytes() const { return pages * kPageBytes; }
  uint64_t end() const { return address + bytes(); }
  auto operator<=>(const PageRange&) const = default;
};

}  // namespace transship::memory
