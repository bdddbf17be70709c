#include "criu/shared_images.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/text.h"
#include "criu/image_file.h"

namespace transship::criu {
namespace {

// A part of the pages file that stays.
struct Kept {
  uint64_t offset = 0;
  uint64_t size = 0;
};

struct Split {
  Pagemap after;
  std::vector<Kept> kept;
  uint64_t left_out = 0;  // pages

  void put(const img::PagemapEntry& from, uint64_t address, uint64_t end, uint32_t flags) {
    if (address == end) return;
    auto entry = from;
    entry.set_vaddr(address);
    entry.set_nr_pages((end - address) / kImagePage);
    entry.set_flags(flags);
    after.entries.push_back(std::move(entry));
  }
  void keep(const img::PagemapEntry& from, uint64_t address, uint64_t end, uint64_t offset) {
    put(from, address, end, from.flags());
    if (address < end) kept.push_back({offset + (address - from.vaddr()), end - address});
  }
};

Split split(const Pagemap& before, uint64_t id, const HeldElsewhere& held) {
  Split s;
  s.after.head = before.head;
  uint64_t offset = 0;
  for (const auto& entry : before.entries) {
    if ((entry.flags() & kPagePresent) == 0) {
      s.after.entries.push_back(entry);
      continue;
    }
    uint64_t at = entry.vaddr(), end = at + entry.nr_pages() * kImagePage;
    for (const auto& part : held(id, {at, entry.nr_pages()})) {
      uint64_t part_end = part.address + part.pages * kImagePage;
      TS_CHECK(at <= part.address && part_end <= end, "{:#x}-{:#x} after {:#x}", part.address, part_end, at);
      s.keep(entry, at, part.address, offset);
      s.put(entry, part.address, part_end, kPageInParent);
      s.left_out += part.pages;
      at = part_end;
    }
    s.keep(entry, at, end, offset);
    offset += entry.nr_pages() * kImagePage;
  }
  return s;
}

Result<> replace_pages(int images, int spare, const Split& s) {
  auto name = pages_name(s.after.head.pages_id());
  if (::renameat(images, name.c_str(), spare, name.c_str()) < 0) return fail_errno(errno, "put {} aside", name);
  if (s.kept.empty()) return {};
  TS_TRY_ASSIGN(Fd old_pages, open_at(spare, name, O_RDONLY | O_NOFOLLOW));
  TS_TRY_ASSIGN(Fd pages, open_at(images, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
  uint64_t written = 0;
  for (const auto& part : s.kept) {
    TS_TRY_CTX(copy_content(old_pages.get(), part.offset, pages.get(), written, part.size), "shorten " + name);
    written += part.size;
  }
  return {};
}

Result<uint64_t> leave_out(int images, int spare, uint64_t id, const HeldElsewhere& held) {
  auto name = shared_pagemap_name(id);
  TS_TRY_ASSIGN(auto bytes, read_image(images, name));
  TS_TRY_ASSIGN(auto before, parse_pagemap(bytes, name));
  auto s = split(before, id, held);
  if (s.left_out == 0) return 0;
  TS_TRY(replace_pages(images, spare, s));
  TS_TRY(write_image(images, name, serialize_pagemap(s.after)));
  return s.left_out;
}

}  // namespace

Result<uint64_t> leave_out_shared(const std::string& images_dir, const std::string& spare_dir,
                                  const HeldElsewhere& held) {
  TS_TRY_ASSIGN(Fd images, open_file(images_dir, O_RDONLY | O_DIRECTORY));
  TS_TRY_ASSIGN(Fd spare, open_file(spare_dir, O_RDONLY | O_DIRECTORY));
  TS_TRY_ASSIGN(auto ids, list_shared_objects(images.get()));
  uint64_t pages = 0;
  for (uint64_t id : ids) {
    TS_TRY_ASSIGN(uint64_t left_out, leave_out(images.get(), spare.get(), id, held));
    pages += left_out;
  }
  return pages;
}

}  // namespace transship::criu
