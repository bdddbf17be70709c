#include "memory/page_store_layout.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>

namespace transship::memory {
namespace {

Result<Fd> sealed_memfd(const char* name, uint64_t bytes) {
  Fd fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return fail_errno(errno, "make the memory file {}", name);
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) < 0)
    return fail_errno(errno, "give the memory file {} its size of {} bytes", name, bytes);
  // A file that shrinks would kill whoever has it mapped.
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
    return fail_errno(errno, "seal the memory file {}", name);
  return fd;
}

Result<> check_memfd(int fd, uint64_t bytes, const char* what) {
  struct stat st{};
  if (::fstat(fd, &st) < 0) return fail_errno(errno, "look at the {} of a page store", what);
  int seals = ::fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || static_cast<uint64_t>(st.st_size) != bytes)
    return fail(Errc::kCorrupt, "the {} of a page store is {} bytes instead of {}, or not sealed", what, st.st_size,
                bytes);
  return {};
}

}  // namespace

PageStore::PageStore(Fd header_fd, Fd data_fd, Header* header)
    : header_fd_(std::move(header_fd)),
      data_fd_(std::move(data_fd)),
      header_(header),
      mutex_(std::make_unique<std::shared_mutex>()) {}

PageStore::PageStore(PageStore&& other) noexcept
    : header_fd_(std::move(other.header_fd_)),
      data_fd_(std::move(other.data_fd_)),
      header_(std::exchange(other.header_, nullptr)),
      content_(std::exchange(other.content_, nullptr)),
      mutex_(std::move(other.mutex_)),
      index_(std::move(other.index_)),
      known_(other.known_) {}

PageStore::~PageStore() {
  if (header_ != nullptr) ::munmap(header_, sizeof(Header));
  if (content_ != nullptr) ::munmap(const_cast<std::byte*>(content_), kDataBytes);  // NOLINT: munmap's signature
}

Result<PageStore::Header*> PageStore::map_header(int fd) {
  void* p = ::mmap(nullptr, sizeof(Header), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (p == MAP_FAILED) return fail_errno(errno, "map the header of a page store");
  return static_cast<Header*>(p);
}

Result<PageStore> PageStore::create(uint64_t byte_limit) {
  TS_TRY_ASSIGN(Fd header_fd, sealed_memfd("transship-pages-header", sizeof(Header)));
  TS_TRY_ASSIGN(Fd data_fd, sealed_memfd("transship-pages", kDataBytes));
  TS_TRY_ASSIGN(Header * header, map_header(header_fd.get()));
  header->limit_pages = byte_limit / kPageBytes;
  header->magic = kMagic;
  return PageStore(std::move(header_fd), std::move(data_fd), header);
}

Result<PageStore> PageStore::attach(Fd header_fd, Fd data_fd) {
  TS_TRY(check_memfd(header_fd.get(), sizeof(Header), "header"));
  TS_TRY(check_memfd(data_fd.get(), kDataBytes, "data"));
  TS_TRY_ASSIGN(Header * header, map_header(header_fd.get()));
  PageStore store(std::move(header_fd), std::move(data_fd), header);
  if (header->magic != kMagic) return fail(Errc::kCorrupt, "the header of a page store is of another version");
  store.learn_chunks();
  return store;
}

Result<> PageStore::map_content() {
  TS_CHECK(content_ == nullptr);
  void* p = ::mmap(nullptr, kDataBytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, data_fd_.get(), 0);
  if (p == MAP_FAILED) return fail_errno(errno, "map the {} bytes of a page store", kDataBytes);
  content_ = static_cast<const std::byte*>(p);
  return {};
}

// Requires the mutex. What is wrong in the table is as good as not there.
void PageStore::learn_chunks() const {
  auto end = std::min(header_->chunks.load(std::memory_order_acquire), kMaxChunks);
  for (; known_ < end; ++known_) {
    const auto& n = header_->names[known_];
    SpaceId space{static_cast<SpaceKind>(n.kind), n.id};
    if (n.kind <= 2 && usable(space) && n.base % kChunkBytes == 0) index_.try_emplace({space, n.base}, known_);
  }
}

PageStore::Place PageStore::place(SpaceId space, uint64_t address, uint64_t max_pages) const {
  Place p;
  auto base = address - address % kChunkBytes;
  p.first = static_cast<uint32_t>((address - base) / kPageBytes);
  p.pages = std::min(max_pages, kChunkPages - p.first);
  Key key{space, base};
  auto look = [&] {
    auto it = index_.find(key);
    p.there = it != index_.end();
    if (p.there) p.chunk = it->second;
  };
  {
    std::shared_lock lock(*mutex_);
    look();
    if (p.there || known_ >= header_->chunks.load(std::memory_order_acquire)) return p;
  }
  std::unique_lock lock(*mutex_);
  learn_chunks();
  look();
  return p;
}

Result<PageStore::Place> PageStore::make_place(SpaceId space, uint64_t address, uint64_t max_pages) {
  Place p = place(space, address, max_pages);
  if (p.there) return p;
  std::unique_lock lock(*mutex_);
  learn_chunks();
  auto base = address - address % kChunkBytes;
  if (auto it = index_.find({space, base}); it != index_.end()) {
    p.chunk = it->second;
  } else {
    p.chunk = header_->chunks.load(std::memory_order_relaxed);
    if (p.chunk >= kMaxChunks)
      return fail(Errc::kNoSpace, "pages of more than {} places of {} MiB have arrived", kMaxChunks, kChunkBytes >> 20);
    header_->names[p.chunk] = {static_cast<uint64_t>(space.kind), space.id, base};
    header_->chunks.store(p.chunk + 1, std::memory_order_release);
    learn_chunks();
  }
  p.there = true;
  return p;
}

uint64_t PageStore::offset_of(const Place& p) const { return p.chunk * kChunkBytes + p.first * kPageBytes; }

// Only memory would be lost if it failed.
void PageStore::punch(const Place& p) const {
  (void)retry_eintr([&] {
    return ::fallocate(data_fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset_of(p)),
                       static_cast<off_t>(p.pages * kPageBytes));
  });
}

PageStore::Change PageStore::change(const Place& p, PageState to, bool keep_filled) {
  Change total;
  auto& words = header_->states[p.chunk];
  for (uint64_t page = p.first; page < p.first + p.pages;) {
    auto in_word = page % kPagesPerWord;
    auto count = std::min(kPagesPerWord - in_word, p.first + p.pages - page);
    auto mask = page_mask(in_word, count);
    auto& word = words[page / kPagesPerWord];
    uint64_t before = word.load(std::memory_order_relaxed);
    uint64_t changing = 0;
    do {
      changing = keep_filled ? mask & ~pages_in_state(before, PageState::kFilled) : mask;
    } while (!word.compare_exchange_weak(before, with_state(before, changing, to), std::memory_order_acq_rel));
    total.changed += static_cast<uint64_t>(std::popcount(changing));
    total.had_content += static_cast<uint64_t>(std::popcount(changing & pages_in_state(before, PageState::kContent)));
    total.met_filled |= changing != mask;
    page += count;
  }
  return total;
}

PageStore::Run PageStore::run_at(const Place& p) const {
  if (!p.there) return {.state = PageState::kAbsent, .pages = p.pages};
  Run run;
  const auto& words = header_->states[p.chunk];
  auto word_of = [&](uint64_t page) { return words[page / kPagesPerWord].load(std::memory_order_acquire); };
  run.state = static_cast<PageState>(word_of(p.first) >> (2 * (p.first % kPagesPerWord)) & 3);
  while (run.pages < p.pages) {
    auto page = p.first + run.pages;
    auto in_word = page % kPagesPerWord;
    auto count = std::min(kPagesPerWord - in_word, p.pages - run.pages);
    auto others = page_mask(in_word, count) & ~pages_in_state(word_of(page), run.state);
    if (others != 0) {
      run.pages += static_cast<uint64_t>(std::countr_zero(others)) / 2 - in_word;
      break;
    }
    run.pages += count;
  }
  if (run.state == PageState::kContent && content_ != nullptr) run.content = content_ + offset_of(p);
  return run;
}

PageStore::Run PageStore::run(SpaceId space, uint64_t address, uint64_t max_pages) const {
  return run_at(place(space, address, max_pages));
}

PagerCounters& PageStore::counters() const { return header_->counters; }
void PageStore::seal() { header_->sealed.store(1); }
bool PageStore::sealed() const { return header_->sealed.load() != 0; }

}  // namespace transship::memory
