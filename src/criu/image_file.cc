#include "criu/image_file.h"

#include <dirent.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <unordered_set>

#include "base/text.h"

namespace transship::criu {
namespace {

constexpr uint32_t kCommonMagic = 0x54564319;
constexpr uint32_t kMaxRecord = 64U << 20;  // the mappings of one process
// Numbers of CRIU's own status bits.
constexpr uint32_t kStatusVsyscall = 1U << 2;
constexpr uint32_t kStatusVdso = 1U << 3;
constexpr uint32_t kStatusVvar = 1U << 12;
constexpr uint32_t kStatusGuard = 1U << 16;
constexpr uint32_t kMaxPid = 1U << 22;
constexpr size_t kMaxListed = 65536;
constexpr std::string_view kSharedPrefix = "pagemap-shmem-";
constexpr std::string_view kSuffix = ".img";

// Image files are little-endian, as are the machines that CRIU runs on and we are built for.
bool take_u32(std::string_view& rest, uint32_t& value) {
  if (rest.size() < sizeof value) return false;
  std::memcpy(&value, rest.data(), sizeof value);
  rest.remove_prefix(sizeof value);
  return true;
}

void put_u32(std::string& out, uint32_t value) { out.append(reinterpret_cast<const char*>(&value), sizeof value); }

// Brings the older forms of an entry into today's.
void modernize(img::PagemapEntry& e) {
  if (!e.has_nr_pages()) e.set_nr_pages(e.compat_nr_pages());
  uint32_t flags = e.has_flags() ? e.flags() : 0;
  if (e.in_parent())
    flags |= kPageInParent;
  else if (!e.has_flags())
    flags = kPagePresent;
  e.set_flags(flags);
  e.set_compat_nr_pages(0);
  e.clear_in_parent();
}

}  // namespace

Result<std::vector<std::string_view>> parse_image(std::string_view bytes, ImageMagic magic, std::string_view name) {
  auto rest = bytes;
  uint32_t word = 0;
  bool ok = take_u32(rest, word);
  if (magic != ImageMagic::kInventory) ok = ok && word == kCommonMagic && take_u32(rest, word);
  if (!ok || word != static_cast<uint32_t>(magic)) return fail(Errc::kCorrupt, "{} does not begin as it should", name);
  std::vector<std::string_view> records;
  while (!rest.empty()) {
    uint32_t size = 0;
    if (!take_u32(rest, size) || size > kMaxRecord || size > rest.size())
      return fail(Errc::kCorrupt, "{} ends in the middle of record {}", name, records.size());
    records.push_back(rest.substr(0, size));
    rest.remove_prefix(size);
  }
  return records;
}

std::string serialize_image(ImageMagic magic, const std::vector<std::string>& records) {
  std::string out;
  if (magic != ImageMagic::kInventory) put_u32(out, kCommonMagic);
  put_u32(out, static_cast<uint32_t>(magic));
  for (const auto& record : records) {
    put_u32(out, static_cast<uint32_t>(record.size()));
    out += record;
  }
  return out;
}

Result<Pagemap> parse_pagemap(std::string_view bytes, std::string_view name) {
  TS_TRY_ASSIGN(auto records, parse_image(bytes, ImageMagic::kPagemap, name));
  if (records.empty()) return fail(Errc::kCorrupt, "{} is empty", name);
  Pagemap pagemap;
  TS_TRY_ASSIGN(pagemap.head, decode_record<img::PagemapHead>(records[0], name));
  if (pagemap.head.pages_id() == 0) return fail(Errc::kCorrupt, "{} names no pages file", name);
  pagemap.entries.reserve(records.size() - 1);
  uint64_t end = 0;
  for (size_t i = 1; i < records.size(); ++i) {
    TS_TRY_ASSIGN(auto e, decode_record<img::PagemapEntry>(records[i], name));
    modernize(e);
    bool sane = e.vaddr() % kImagePage == 0 && e.vaddr() >= end && e.vaddr() < kAddressLimit && e.nr_pages() > 0 &&
                e.nr_pages() <= (kAddressLimit - e.vaddr()) / kImagePage;
    if (!sane)
      return fail(Errc::kCorrupt, "{}: entry {} ({} pages at {:#x}) is out of order or out of range", name, i,
                  e.nr_pages(), e.vaddr());
    end = e.vaddr() + e.nr_pages() * kImagePage;
    pagemap.entries.push_back(std::move(e));
  }
  return pagemap;
}

std::string serialize_pagemap(const Pagemap& pagemap) {
  std::string out;
  put_u32(out, kCommonMagic);
  put_u32(out, static_cast<uint32_t>(ImageMagic::kPagemap));
  auto append = [&](const auto& message) {
    put_u32(out, static_cast<uint32_t>(message.ByteSizeLong()));
    (void)message.AppendToString(&out);
  };
  append(pagemap.head);
  for (const auto& entry : pagemap.entries) append(entry);
  return out;
}

Result<std::vector<img::Vma>> parse_mappings(std::string_view bytes, std::string_view name) {
  TS_TRY_ASSIGN(auto records, parse_image(bytes, ImageMagic::kMm, name));
  if (records.size() != 1) return fail(Errc::kCorrupt, "{} has {} records instead of one", name, records.size());
  TS_TRY_ASSIGN(auto mm, decode_record<img::Mm>(records[0], name));
  std::vector<img::Vma> vmas;
  vmas.reserve(static_cast<size_t>(mm.vmas_size()));
  uint64_t end = 0;
  for (auto& vma : *mm.mutable_vmas()) {
    if ((vma.status() & kStatusGuard) != 0) continue;
    // The vsyscall page is beyond everything else, and nobody's content.
    if ((vma.status() & kStatusVsyscall) != 0) continue;
    bool sane = vma.start() % kImagePage == 0 && vma.end() % kImagePage == 0 && vma.start() >= end &&
                vma.start() < vma.end() && vma.end() <= kAddressLimit;
    if (!sane)
      return fail(Errc::kCorrupt, "{}: mapping {:#x}-{:#x} is out of order or out of range", name, vma.start(),
                  vma.end());
    end = vma.end();
    vmas.push_back(std::move(vma));
  }
  return vmas;
}

bool can_be_lazy(const img::Vma& vma) {
  constexpr uint32_t kWanted = MAP_ANONYMOUS | MAP_PRIVATE;
  constexpr uint32_t kUnwanted = MAP_LOCKED | MAP_HUGETLB;
  // Of memory that a child of fork() finds empty: a page that is not there yet would come to the child as well.
  if ((vma.madv() >> MADV_WIPEONFORK & 1) != 0) return false;
  return (vma.flags() & kWanted) == kWanted && (vma.flags() & kUnwanted) == 0 &&
         (vma.status() & (kStatusVsyscall | kStatusVdso | kStatusVvar)) == 0;
}

Result<std::vector<pid_t>> parse_process_tree(std::string_view bytes, std::string_view name) {
  TS_TRY_ASSIGN(auto records, parse_image(bytes, ImageMagic::kProcessTree, name));
  std::vector<pid_t> pids;
  std::unordered_set<uint32_t> seen;
  for (auto record : records) {
    TS_TRY_ASSIGN(auto process, decode_record<img::Process>(record, name));
    if (process.pid() == 0 || process.pid() > kMaxPid || !seen.insert(process.pid()).second)
      return fail(Errc::kCorrupt, "{}: process id {} is out of range or comes twice", name, process.pid());
    pids.push_back(static_cast<pid_t>(process.pid()));
  }
  if (pids.empty()) return fail(Errc::kCorrupt, "{} has no process", name);
  return pids;
}

Result<std::map<pid_t, std::vector<pid_t>>> parse_threads(std::string_view bytes, std::string_view name) {
  TS_TRY_ASSIGN(auto pids, parse_process_tree(bytes, name));
  TS_TRY_ASSIGN(auto records, parse_image(bytes, ImageMagic::kProcessTree, name));
  std::map<pid_t, std::vector<pid_t>> threads;
  for (size_t i = 0; i < records.size(); ++i) {
    TS_TRY_ASSIGN(auto process, decode_record<img::Process>(records[i], name));
    // A process that has ended and is not waited for yet: the number is whatever was in CRIU's memory.
    if (process.threads().empty() || process.threads(0) != process.pid()) continue;
    for (uint32_t tid : process.threads()) {
      if (tid == 0 || tid > kMaxPid) return fail(Errc::kCorrupt, "{}: thread id {} is out of range", name, tid);
      threads[pids[i]].push_back(static_cast<pid_t>(tid));
    }
  }
  return threads;
}

Result<uint64_t> parse_rseq_area(std::string_view bytes, std::string_view name) {
  TS_TRY_ASSIGN(auto records, parse_image(bytes, ImageMagic::kCore, name));
  if (records.size() != 1) return fail(Errc::kCorrupt, "{} has {} records instead of one", name, records.size());
  TS_TRY_ASSIGN(auto core, decode_record<img::Core>(records[0], name));
  return core.thread_core().rseq_entry().rseq_abi_pointer();
}

Result<std::vector<std::string>> list_images(int directory, std::string_view prefix) {
  TS_TRY_ASSIGN(Fd own, open_at(directory, ".", O_RDONLY | O_DIRECTORY));
  std::unique_ptr<DIR, int (*)(DIR*)> list(::fdopendir(own.get()), ::closedir);
  if (!list) return fail_errno(errno, "list the images");
  (void)own.release();  // the list's now
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(list.get())) {
    std::string_view name = entry->d_name;
    if (!name.starts_with(prefix) || !name.ends_with(kSuffix)) continue;
    if (names.size() == kMaxListed) return fail(Errc::kCorrupt, "there are too many images {}*", prefix);
    names.emplace_back(name);
  }
  return names;
}

Result<std::set<uint64_t>> list_shared_objects(int directory) {
  TS_TRY_ASSIGN(auto names, list_images(directory, kSharedPrefix));
  std::set<uint64_t> ids;
  for (std::string_view name : names) {
    auto digits = name.substr(kSharedPrefix.size(), name.size() - kSharedPrefix.size() - kSuffix.size());
    TS_TRY_ASSIGN(uint64_t id, parse_u64(digits, fmt::format("id in {}", name)));
    ids.insert(id);
  }
  return ids;
}

std::string shared_pagemap_name(uint64_t id) { return fmt::format("{}{}{}", kSharedPrefix, id, kSuffix); }

std::string pages_name(uint32_t pages_id) { return fmt::format("pages-{}{}", pages_id, kSuffix); }

Result<std::string> read_image(int directory, const std::string& name, size_t limit) {
  // Not blocking: the name could be that of a pipe.
  TS_TRY_ASSIGN(Fd fd, open_at(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
  struct stat st;
  if (::fstat(fd.get(), &st) < 0) return fail_errno(errno, "look at {}", name);
  if (!S_ISREG(st.st_mode)) return fail(Errc::kCorrupt, "{} is not a regular file", name);
  if (static_cast<uint64_t>(st.st_size) > limit)
    return fail(Errc::kCorrupt, "{} has {} bytes, more than such an image can have", name, st.st_size);
  std::string bytes(static_cast<size_t>(st.st_size), '\0');
  TS_TRY_CTX(read_exact(fd.get(), std::as_writable_bytes(std::span(bytes))), name);
  return bytes;
}

Result<> write_image(int directory, const std::string& name, std::string_view bytes) {
  auto beside = name + ".new";
  (void)::unlinkat(directory, beside.c_str(), 0);
  TS_TRY_ASSIGN(Fd fd, open_at(directory, beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
  if (auto written = write_all(fd.get(), bytes); !written) {
    (void)::unlinkat(directory, beside.c_str(), 0);
    return std::unexpected(std::move(written).error().context(fmt::format("write {}", name)));
  }
  if (::renameat(directory, beside.c_str(), directory, name.c_str()) < 0) return fail_errno(errno, "rename {}", beside);
  return {};
}

Result<> copy_content(int from, uint64_t from_offset, int to, uint64_t to_offset, uint64_t size) {
  auto in = static_cast<off_t>(from_offset), out = static_cast<off_t>(to_offset);
  while (size > 0) {
    ssize_t n = retry_eintr([&] { return ::copy_file_range(from, &in, to, &out, size, 0); });
    if (n < 0) return fail_errno(errno, "copy {} bytes", size);
    if (n == 0) return fail(Errc::kCorrupt, "it ends {} bytes too early", size);
    size -= static_cast<uint64_t>(n);
  }
  return {};
}

}  // namespace transship::criu
