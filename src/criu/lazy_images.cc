#include "criu/lazy_images.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "base/text.h"
#include "criu/image_file.h"

namespace transship::criu {
namespace {

constexpr size_t kCopyBytes = 1U << 20;
// Reserved memory of an object's pages; followed by its id.
constexpr std::string_view kReserved = "reserved-shmem-";

// One pagemap of the directory, and what becomes of it.
struct Space {
  ImageSpace space;
  std::string name;
  Pagemap before, after;
  MissingPages missing;
};

struct Directory {
  Fd fd;
  uint64_t limit_pages = 0;
  LazyPlan totals;  // without its list
  std::set<uint32_t> pages_ids;
  std::vector<Space> spaces;

  Result<> load();
  Result<> add_task(pid_t pid);
  Result<> add_shared(uint64_t id, const std::string& name);
  Result<> plan(Space& s, const std::vector<img::Vma>* vmas);
  Result<> place(Space& s, img::PagemapEntry entry, bool lazy);
  Result<> fill(const Space& s, PageSource& source) const;
  Result<> find_early();
  LazyPlan result();
};

Result<> Directory::place(Space& s, img::PagemapEntry entry, bool lazy) {
  bool present = (entry.flags() & kPagePresent) != 0;
  uint64_t& total = present ? totals.present_pages : lazy ? totals.lazy_pages : totals.eager_pages;
  uint64_t sum = totals.present_pages + totals.lazy_pages + totals.eager_pages;
  if (entry.nr_pages() > limit_pages - sum)
    return fail(Errc::kCorrupt, "{}: the images claim more than {} of memory", s.name,
                format_bytes(limit_pages * kImagePage));
  total += entry.nr_pages();
  if (!present) (lazy ? s.missing.lazy : s.missing.eager).push_back({entry.vaddr(), entry.nr_pages()});
  // CRIU passes over lazy pages even when their content is there.
  entry.set_flags(!present && lazy ? kPageLazy : kPagePresent);
  s.after.entries.push_back(std::move(entry));
  return {};
}

// Splits every entry at the ends of mappings, for each part decides who brings it. No mappings: a shared object.
Result<> Directory::plan(Space& s, const std::vector<img::Vma>* vmas) {
  if (!pages_ids.insert(s.before.head.pages_id()).second)
    return fail(Errc::kCorrupt, "{} shares its pages file with another image", s.name);
  s.after.head = s.before.head;
  s.missing.space = s.space;
  size_t at = 0;
  for (const auto& entry : s.before.entries) {
    bool whole = vmas == nullptr || (entry.flags() & kPagePresent) != 0;
    if (whole) {
      TS_TRY(place(s, entry, false));
      continue;
    }
    uint64_t from = entry.vaddr(), end = from + entry.nr_pages() * kImagePage;
    while (from < end) {
      while (at < vmas->size() && (*vmas)[at].end() <= from) ++at;
      if (at == vmas->size() || (*vmas)[at].start() > from)
        return fail(Errc::kCorrupt, "{}: there is no mapping at {:#x}", s.name, from);
      auto part = entry;
      uint64_t stop = std::min(end, (*vmas)[at].end());
      part.set_vaddr(from);
      part.set_nr_pages((stop - from) / kImagePage);
      TS_TRY(place(s, std::move(part), can_be_lazy((*vmas)[at])));
      from = stop;
    }
  }
  return {};
}

Result<> Directory::add_task(pid_t pid) {
  Space s;
  s.space = {false, static_cast<uint64_t>(pid)};
  s.missing.space = s.space;
  s.name = fmt::format("pagemap-{}.img", pid);
  auto mm_name = fmt::format("mm-{}.img", pid);
  auto mm = read_image(fd.get(), mm_name);
  if (!mm && mm.error().code() == Errc::kNotFound) {  // a zombie
    spaces.push_back(std::move(s));
    return {};
  }
  if (!mm) return std::unexpected(std::move(mm).error());
  TS_TRY_ASSIGN(auto vmas, parse_mappings(*mm, mm_name));
  TS_TRY_ASSIGN(auto bytes, read_image(fd.get(), s.name));
  TS_TRY_ASSIGN(s.before, parse_pagemap(bytes, s.name));
  TS_TRY(plan(s, &vmas));
  spaces.push_back(std::move(s));
  return {};
}

Result<> Directory::add_shared(uint64_t id, const std::string& name) {
  Space s;
  s.space = {true, id};
  s.name = name;
  TS_TRY_ASSIGN(auto bytes, read_image(fd.get(), name));
  TS_TRY_ASSIGN(s.before, parse_pagemap(bytes, name));
  TS_TRY(plan(s, nullptr));
  spaces.push_back(std::move(s));
  return {};
}

Result<> Directory::load() {
  TS_TRY_ASSIGN(auto tree, read_image(fd.get(), "pstree.img"));
  TS_TRY_ASSIGN(auto pids, parse_process_tree(tree, "pstree.img"));
  for (pid_t pid : pids) TS_TRY(add_task(pid));
  TS_TRY_ASSIGN(auto ids, list_shared_objects(fd.get()));
  for (uint64_t id : ids) TS_TRY(add_shared(id, shared_pagemap_name(id)));
  return {};
}

LazyPlan Directory::result() {
  for (auto& s : spaces) totals.spaces.push_back(std::move(s.missing));
  return std::move(totals);
}

// The old pages file of `s`, checked to be long enough; empty when CRIU wrote no page.
Result<Fd> open_pages(int directory, const Space& s) {
  uint64_t pages = 0;
  for (const auto& e : s.before.entries) pages += (e.flags() & kPagePresent) != 0 ? e.nr_pages() : 0;
  if (pages == 0) return Fd();
  auto name = pages_name(s.before.head.pages_id());
  TS_TRY_ASSIGN(Fd fd, open_at(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
  struct stat st;
  if (::fstat(fd.get(), &st) < 0) return fail_errno(errno, "look at {}", name);
  if (!S_ISREG(st.st_mode) || static_cast<uint64_t>(st.st_size) / kImagePage < pages)
    return fail(Errc::kCorrupt, "{} is not a file of {} pages", name, pages);
  return fd;
}

// Writes the new pages file: what CRIU wrote and what the source has, in the order of the entries.
Result<> merge_pages(const Space& s, int old_pages, int new_pages, PageSource& source) {
  auto eager = s.missing.eager.begin();
  uint64_t taken = 0, written = 0;
  for (const auto& e : s.after.entries) {
    if ((e.flags() & kPagePresent) == 0) continue;
    uint64_t size = e.nr_pages() * kImagePage;
    if (eager != s.missing.eager.end() && eager->address == e.vaddr()) {
      TS_TRY(source.write_to(new_pages, written, s.space, *eager));
      ++eager;
    } else {
      TS_TRY(copy_content(old_pages, taken, new_pages, written, size));
      taken += size;
    }
    written += size;
  }
  // What was reserved may have been too much.
  if (::ftruncate(new_pages, static_cast<off_t>(written)) < 0) return fail_errno(errno, "cut it to {} bytes", written);
  return {};
}

// A file to put the pages into: the reserved one, or a new one.
Result<Fd> open_new_pages(int directory, const Space& s, const std::string& name) {
  (void)::unlinkat(directory, name.c_str(), 0);
  auto reserved = fmt::format("{}{}", kReserved, s.space.id);
  if (s.space.shared && ::renameat(directory, reserved.c_str(), directory, name.c_str()) == 0)
    return open_at(directory, name, O_WRONLY | O_NOFOLLOW | O_NONBLOCK);
  return open_at(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
}

Result<> Directory::fill(const Space& s, PageSource& source) const {
  if (s.before.head.pages_id() == 0) return {};  // a zombie
  TS_TRY_ASSIGN(Fd old_pages, open_pages(fd.get(), s));
  if (!s.missing.eager.empty()) {
    auto name = pages_name(s.before.head.pages_id()), beside = name + ".new";
    TS_TRY_ASSIGN(Fd pages, open_new_pages(fd.get(), s, beside));
    TS_TRY_CTX(merge_pages(s, old_pages.get(), pages.get(), source), fmt::format("complete {}", name));
    if (::renameat(fd.get(), beside.c_str(), fd.get(), name.c_str()) < 0) return fail_errno(errno, "rename {}", beside);
  }
  return write_image(fd.get(), s.name, serialize_pagemap(s.after));
}

bool holds(const std::vector<ImageRange>& ranges, uint64_t address) {
  return std::ranges::any_of(
      ranges, [&](const ImageRange& r) { return r.address <= address && address < r.address + r.pages * kImagePage; });
}

// Pages of its threads' restartable sequences.
Result<std::set<uint64_t>> rseq_pages(int directory, const std::vector<pid_t>& threads) {
  std::set<uint64_t> pages;
  for (pid_t tid : threads) {
    auto name = fmt::format("core-{}.img", tid);
    TS_TRY_ASSIGN(auto bytes, read_image(directory, name));
    TS_TRY_ASSIGN(uint64_t area, parse_rseq_area(bytes, name));
    if (area != 0) pages.insert(area / kImagePage * kImagePage);
  }
  return pages;
}

Result<> Directory::find_early() {
  TS_TRY_ASSIGN(auto tree, read_image(fd.get(), "pstree.img"));
  TS_TRY_ASSIGN(auto threads, parse_threads(tree, "pstree.img"));
  for (auto& s : spaces) {
    if (s.space.shared || s.missing.lazy.empty()) continue;
    TS_TRY_ASSIGN(auto pages, rseq_pages(fd.get(), threads[static_cast<pid_t>(s.space.id)]));
    for (uint64_t page : pages)
      if (holds(s.missing.lazy, page)) s.missing.early.push_back({page, 1});
  }
  return {};
}

Result<Directory> load_directory(const std::string& images_dir, uint64_t limit_bytes) {
  Directory d;
  TS_TRY_ASSIGN(d.fd, open_file(images_dir, O_RDONLY | O_DIRECTORY));
  d.limit_pages = std::min(limit_bytes, kAddressLimit) / kImagePage;
  TS_TRY_CTX(d.load(), "images in " + images_dir);
  return d;
}

}  // namespace

Result<> PageSource::write_to(int fd, uint64_t offset, ImageSpace space, ImageRange range) {
  std::vector<std::byte> buffer(std::min<uint64_t>(range.pages * kImagePage, kCopyBytes));
  uint64_t end = range.address + range.pages * kImagePage;
  for (uint64_t at = range.address; at < end;) {
    auto piece = std::span(buffer).first(std::min<uint64_t>(end - at, buffer.size()));
    TS_TRY(read(space, at, piece));
    for (auto rest = piece; !rest.empty();) {
      ssize_t n = retry_eintr([&] { return ::pwrite(fd, rest.data(), rest.size(), static_cast<off_t>(offset)); });
      if (n < 0) return fail_errno(errno, "write {} bytes of pages", rest.size());
      rest = rest.subspan(static_cast<size_t>(n));
      offset += static_cast<uint64_t>(n);
    }
    at += piece.size();
  }
  return {};
}

Result<LazyPlan> plan_lazy_restore(const std::string& images_dir, uint64_t limit_bytes) {
  TS_TRY_ASSIGN(auto directory, load_directory(images_dir, limit_bytes));
  TS_TRY_CTX(directory.find_early(), "images in " + images_dir);
  return directory.result();
}

Result<> reserve_shared_pages(const std::string& images_dir, uint64_t id, uint64_t bytes) {
  auto path = fmt::format("{}/{}{}", images_dir, kReserved, id);
  TS_TRY_ASSIGN(Fd fd, open_file(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
  // Written, not allocated: only then is it there, of a virtual machine's memory too.
  const std::vector<std::byte> zeros(std::min<uint64_t>(bytes, kCopyBytes));
  Result<> written;
  for (uint64_t left = bytes; written && left > 0; left -= std::min<uint64_t>(left, zeros.size()))
    written = write_all(fd.get(), std::span(zeros).first(std::min<uint64_t>(left, zeros.size())));
  if (written) return {};
  (void)::unlink(path.c_str());
  return std::unexpected(std::move(written).error().context(fmt::format("reserve {} for pages", format_bytes(bytes))));
}

Result<LazyPlan> prepare_lazy_restore(const std::string& images_dir, PageSource& source, uint64_t limit_bytes) {
  TS_TRY_ASSIGN(auto directory, load_directory(images_dir, limit_bytes));
  // Everything is there once the pager has done its work: nothing is to be looked up in an earlier dump.
  (void)::unlinkat(directory.fd.get(), "parent", 0);
  for (const auto& s : directory.spaces) TS_TRY(directory.fill(s, source));
  return directory.result();
}

}  // namespace transship::criu
