#include "criu/memfd_images.h"

#include <fcntl.h>
#include <unistd.h>

#include <map>
#include <optional>

#include "criu/image_file.h"

namespace transship::criu {
namespace {

constexpr const char* kInodes = "memfd.img";
constexpr const char* kFiles = "files.img";
constexpr std::string_view kDescriptors = "fdinfo-";
// How CRIU names anonymous shared memory, and looks up what it inherits for a memfd.
constexpr std::string_view kAnonymous = "/dev/zero";
constexpr std::string_view kKeyPrefix = "/memfd:";
constexpr uint32_t kTypeMemfd = 18;
constexpr uint32_t kNotSealable = F_SEAL_SEAL;
constexpr uint32_t kModeBits = 07777;

// Inodes that somebody has open.
Result<std::set<uint64_t>> open_inodes(int directory) {
  TS_TRY_ASSIGN(auto bytes, read_image(directory, kFiles));
  TS_TRY_ASSIGN(auto records, parse_image(bytes, ImageMagic::kFiles, kFiles));
  std::map<uint32_t, uint64_t> inode_of;
  for (auto record : records) {
    TS_TRY_ASSIGN(auto file, decode_record<img::File>(record, kFiles));
    if (file.type() == kTypeMemfd) inode_of[file.id()] = file.memfd().inode_id();
  }
  std::set<uint64_t> open;
  TS_TRY_ASSIGN(auto names, list_images(directory, kDescriptors));
  for (const auto& name : names) {
    TS_TRY_ASSIGN(auto table, read_image(directory, name));
    TS_TRY_ASSIGN(auto descriptors, parse_image(table, ImageMagic::kDescriptors, name));
    for (auto record : descriptors) {
      TS_TRY_ASSIGN(auto descriptor, decode_record<img::Descriptor>(record, name));
      auto file = inode_of.find(descriptor.id());
      if (descriptor.type() == kTypeMemfd && file != inode_of.end()) open.insert(file->second);
    }
  }
  return open;
}

// The pages of an object, none of which CRIU has written itself.
Result<std::optional<std::vector<ImageRange>>> pages_left_out(int directory, uint64_t id) {
  auto name = shared_pagemap_name(id);
  auto bytes = read_image(directory, name);
  if (!bytes && bytes.error().code() == Errc::kNotFound) return std::nullopt;
  if (!bytes) return std::unexpected(std::move(bytes).error());
  TS_TRY_ASSIGN(auto pagemap, parse_pagemap(*bytes, name));
  std::vector<ImageRange> pages;
  for (const auto& entry : pagemap.entries) {
    if ((entry.flags() & kPagePresent) != 0) return std::nullopt;
    pages.push_back({entry.vaddr(), entry.nr_pages()});
  }
  return pages;
}

bool can_be_inherited(const img::MemfdInode& inode, const std::set<uint64_t>& open) {
  return inode.name() == kAnonymous && inode.hugetlb_flag() == 0 && inode.seals() == kNotSealable &&
         !open.contains(inode.inode_id());
}

Result<std::vector<InheritedMemory>> rename_inodes(int directory, const std::set<uint64_t>& ids) {
  std::vector<InheritedMemory> inherited;
  auto bytes = read_image(directory, kInodes);
  if (!bytes && bytes.error().code() == Errc::kNotFound) return inherited;
  if (!bytes) return std::unexpected(std::move(bytes).error());
  TS_TRY_ASSIGN(auto records, parse_image(*bytes, ImageMagic::kMemfdInode, kInodes));
  TS_TRY_ASSIGN(auto open, open_inodes(directory));
  std::vector<std::string> after;
  std::set<uint64_t> seen;
  for (auto record : records) {
    TS_TRY_ASSIGN(auto inode, decode_record<img::MemfdInode>(record, kInodes));
    if (!seen.insert(inode.shmid()).second)
      return fail(Errc::kCorrupt, "{} has shared memory {} twice", kInodes, inode.shmid());
    if (ids.contains(inode.shmid()) && can_be_inherited(inode, open)) {
      TS_TRY_ASSIGN(auto pages, pages_left_out(directory, inode.shmid()));
      if (pages) {
        // Its own name for each: that is all CRIU looks at.
        inode.set_name(fmt::format("transship-{}", inode.shmid()));
        inherited.push_back({inode.shmid(), fmt::format("{}{}", kKeyPrefix, inode.name()), inode.size(), inode.uid(),
                             inode.gid(), inode.mode() & kModeBits, std::move(*pages)});
      }
    }
    after.push_back(inode.SerializeAsString());
  }
  if (!inherited.empty()) TS_TRY(write_image(directory, kInodes, serialize_image(ImageMagic::kMemfdInode, after)));
  return inherited;
}

}  // namespace

Result<std::vector<InheritedMemory>> expect_inherited(const std::string& images_dir, const std::set<uint64_t>& ids) {
  if (ids.empty()) return std::vector<InheritedMemory>();
  TS_TRY_ASSIGN(Fd directory, open_file(images_dir, O_RDONLY | O_DIRECTORY));
  auto inherited = rename_inodes(directory.get(), ids);
  if (!inherited) return std::unexpected(std::move(inherited).error().context("images in " + images_dir));
  for (const auto& object : *inherited) (void)::unlinkat(directory.get(), shared_pagemap_name(object.id).c_str(), 0);
  return inherited;
}

}  // namespace transship::criu
