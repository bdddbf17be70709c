// CRIU's image files: framing, and the few that we read or write. Pure functions, thread-safe; any bytes at all are
// fine: kCorrupt says what is wrong with them. `name` is for error messages only.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "proto/criu_images.pb.h"

namespace transship::criu {

// The second word of a file, which says what it holds. The inventory has this one only.
enum class ImageMagic : uint32_t {
  kPagemap = 0x56084025,  // of a process and of a shared object
  kMm = 0x57492820,
  kProcessTree = 0x50273030,
  kCore = 0x55053847,
  kInventory = 0x58313116,
  kFiles = 0x56303138,
  kDescriptors = 0x56213732,  // of a process: fdinfo
  kMemfdInode = 0x48453499,
  kShared = 0x54432030,  // ids-PID
  kMounts = 0x55563928,
};

// Flags of a pagemap entry. Without any the content is elsewhere, and whoever restores must know where.
constexpr uint32_t kPageInParent = 1;  // a hole: the content is in the parent's images
constexpr uint32_t kPageLazy = 2;      // a lazy restore leaves it to the pager, even when it is here
constexpr uint32_t kPagePresent = 4;   // the content is in the pages file

constexpr uint64_t kImagePage = 4096;
// What user space can have at most (five-level page tables), in bytes.
constexpr uint64_t kAddressLimit = 1ULL << 56;
// A pagemap of 16 million entries; everything else is far below.
constexpr size_t kMaxImageBytes = 512U << 20;

// The records of a file, undecoded.
Result<std::vector<std::string_view>> parse_image(std::string_view bytes, ImageMagic magic, std::string_view name);
// One record of a file; kCorrupt when a required field is missing.
template <class M>
Result<M> decode_record(std::string_view record, std::string_view name) {
  M message;
  // In two steps: for a missing field protobuf would write to stderr by itself.
  if (!message.ParsePartialFromArray(record.data(), static_cast<int>(record.size())) || !message.IsInitialized())
    return fail(Errc::kCorrupt, "{} has a record that cannot be decoded", name);
  return message;
}
std::string serialize_image(ImageMagic magic, const std::vector<std::string>& records);

struct Pagemap {
  img::PagemapHead head;
  // Ascending, not overlapping, of whole pages, below kAddressLimit; `nr_pages` and `flags` are always set, the two
  // older forms of them never.
  std::vector<img::PagemapEntry> entries;
};
Result<Pagemap> parse_pagemap(std::string_view bytes, std::string_view name);
std::string serialize_pagemap(const Pagemap& pagemap);

// Ascending and not overlapping, of whole pages. Guard areas, which CRIU lists as well, are left out.
Result<std::vector<img::Vma>> parse_mappings(std::string_view bytes, std::string_view name);
// May its pages come after the restore? CRIU registers it with userfaultfd then. Others are filled from the images.
bool can_be_lazy(const img::Vma& vma);

// Pids of all processes, zombies included, in the order of the file; positive, each once.
Result<std::vector<pid_t>> parse_process_tree(std::string_view bytes, std::string_view name);
// The threads of each that has any, itself first. Zombies have none: CRIU lists one of any number for them.
Result<std::map<pid_t, std::vector<pid_t>>> parse_threads(std::string_view bytes, std::string_view name);

// Where the kernel keeps a thread's restartable sequences (rseq(2)), by its core image; 0: nowhere.
Result<uint64_t> parse_rseq_area(std::string_view bytes, std::string_view name);

// Names of the images in `directory` that begin with `prefix`; 65536 at most.
Result<std::vector<std::string>> list_images(int directory, std::string_view prefix);
// Shared memory objects that have a pagemap in `directory`: their numbers are in no list of CRIU's.
Result<std::set<uint64_t>> list_shared_objects(int directory);
std::string shared_pagemap_name(uint64_t id);
std::string pages_name(uint32_t pages_id);

// A regular file of `directory`, whole; symbolic links are not followed. kNotFound when it is not there.
Result<std::string> read_image(int directory, const std::string& name, size_t limit = kMaxImageBytes);
// Replaces the file by way of another one beside it.
Result<> write_image(int directory, const std::string& name, std::string_view bytes);
// From one file to another, within the kernel. kCorrupt: the first one ends too early.
Result<> copy_content(int from, uint64_t from_offset, int to, uint64_t to_offset, uint64_t size);

}  // namespace transship::criu
