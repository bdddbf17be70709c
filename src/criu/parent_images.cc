#include "criu/parent_images.h"

#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "base/text.h"
#include "criu/image_file.h"
#include "sys/file.h"
#include "sys/proc_text.h"

namespace transship::criu {
namespace {

// The cache begins: two magic words, device of anonymous shared memory (8), last capability (4, and 4 of padding),
// frame of the zero page (8), and then what CRIU found, one byte each: soft-dirty tracking is the first.
struct Layout {
  int first_version, last_version;
  size_t offset;
};
constexpr std::array<Layout, 1> kLayouts = {{{40200, 40201, 32}}};
constexpr size_t kLastCapability = 16;
constexpr size_t kFlagsAfter = 3;  // bytes after ours that are flags as well
constexpr size_t kMinKdat = 256;
constexpr size_t kMaxKdat = 1U << 16;

constexpr uint32_t kImageVersion = 2;
// Tasks that started later than the earlier dump would count as other ones with the same pid.
constexpr uint64_t kFarFuture = 1ULL << 62;
constexpr const char* kEverything = "everything";

Result<std::string> read_kdat(const std::string& path) {
  TS_TRY_ASSIGN(auto bytes, sys::read_file(path, kMaxKdat));
  if (bytes.size() < kMinKdat) return fail(Errc::kKernelFeatureMissing, "{} has {} bytes only", path, bytes.size());
  return bytes;
}

uint64_t magic_of(std::string_view kdat) {
  uint64_t magic = 0;
  std::memcpy(&magic, kdat.data(), sizeof magic);
  return magic;
}

Result<> matches(const std::string& kdat, const KdatPatch& patch, const std::string& path) {
  if (magic_of(kdat) == patch.magic && patch.offset < kdat.size()) return {};
  return fail(Errc::kUnavailable, "{} was written by another CRIU than the one that was tried out", path);
}

// One entry for the whole address space: CRIU asks for ranges, and takes any entry that has them in it.
std::string everything_pagemap() {
  Pagemap pagemap;
  pagemap.head.set_pages_id(1);
  auto& entry = pagemap.entries.emplace_back();
  entry.set_vaddr(0);
  entry.set_compat_nr_pages(0);
  entry.set_nr_pages(kAddressLimit / kImagePage);
  entry.set_flags(kPageInParent);
  return serialize_pagemap(pagemap);
}

}  // namespace

Result<ParentImages> ParentImages::create(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) != 0) return fail_errno(errno, "make {}", path);
  ParentImages parent(path);
  TS_TRY_ASSIGN(Fd directory, open_file(path, O_RDONLY | O_DIRECTORY));
  img::Inventory inventory;
  inventory.set_img_version(kImageVersion);
  inventory.set_dump_uptime(kFarFuture);
  TS_TRY(write_image(directory.get(), "inventory.img",
                     serialize_image(ImageMagic::kInventory, {inventory.SerializeAsString()})));
  TS_TRY(write_image(directory.get(), kEverything, everything_pagemap()));
  // Never read from, but CRIU looks for it.
  TS_TRY(write_image(directory.get(), "pages-1.img", ""));
  return parent;
}

ParentImages& ParentImages::operator=(ParentImages&& other) noexcept {
  std::swap(path_, other.path_);
  return *this;
}

ParentImages::~ParentImages() {
  if (!path_.empty()) (void)sys::remove_tree(path_);
}

Result<> ParentImages::cover_tasks(const std::vector<pid_t>& pids) const {
  for (pid_t pid : pids) {
    TS_TRY_ASSIGN(pid_t inner, innermost_pid(pid));
    auto name = fmt::format("{}/pagemap-{}.img", path_, inner);
    if (::link(fmt::format("{}/{}", path_, kEverything).c_str(), name.c_str()) != 0 && errno != EEXIST)
      return fail_errno(errno, "make {}", name);
  }
  return {};
}

Result<KdatPatch> locate_kdat_patch(int version, const std::string& kdat_file) {
  const Layout* layout = nullptr;
  for (const auto& known : kLayouts) {
    if (version >= known.first_version && version <= known.last_version) layout = &known;
  }
  if (layout == nullptr)
    return fail(Errc::kKernelFeatureMissing, "CRIU {}.{}.{} is not one whose cache of kernel features we know",
                version / 10000, version / 100 % 100, version % 100);
  TS_TRY_ASSIGN(auto kdat, read_kdat(kdat_file));
  TS_TRY_ASSIGN(auto text, sys::read_file("/proc/sys/kernel/cap_last_cap", 64));
  TS_TRY_ASSIGN(uint64_t last_capability, parse_u64(trim(text), "cap_last_cap"));
  uint32_t found = 0;
  std::memcpy(&found, kdat.data() + kLastCapability, sizeof found);
  bool flags = true;
  for (size_t i = 0; i <= kFlagsAfter; ++i) flags = flags && static_cast<unsigned char>(kdat[layout->offset + i]) <= 1;
  if (found != last_capability || !flags)
    return fail(Errc::kKernelFeatureMissing, "{} is not laid out as in the CRIU that we know", kdat_file);
  return KdatPatch{magic_of(kdat), layout->offset};
}

Result<bool> kdat_says_tracked(const KdatPatch& patch, const std::string& kdat_file) {
  TS_TRY_ASSIGN(auto kdat, read_kdat(kdat_file));
  TS_TRY(matches(kdat, patch, kdat_file));
  return kdat[patch.offset] != 0;
}

Result<> write_patched_kdat(const KdatPatch& patch, const std::string& copy, const std::string& kdat_file) {
  TS_TRY_ASSIGN(auto kdat, read_kdat(kdat_file));
  TS_TRY(matches(kdat, patch, kdat_file));
  kdat[patch.offset] = 1;
  (void)::unlink(copy.c_str());
  TS_TRY_ASSIGN(Fd fd, open_file(copy, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
  return write_all(fd.get(), kdat);
}

Result<pid_t> innermost_pid(pid_t pid) {
  TS_TRY_ASSIGN(auto text, sys::read_file(fmt::format("/proc/{}/status", pid), 65536));
  auto fields = sys::parse_fields(text);
  auto pids = sys::words(fields["NSpid"]);
  if (pids.empty()) return fail(Errc::kCorrupt, "/proc/{}/status has no NSpid", pid);
  TS_TRY_ASSIGN(uint64_t inner, parse_u64(pids.back(), "NSpid"));
  return static_cast<pid_t>(inner);
}

}  // namespace transship::criu
