// Pages that have arrived, held once, in memory that the daemon shares with its pager (pager_client.h). It stays as
// long as one of them lives.
//
// Two memfds: a header (which 64 MiB of address space each chunk of the data file stands for, two bits of state for
// each page) and the data, sparse. Neighbouring pages are neighbours in the data file, so that one UFFDIO_COPY takes
// many.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "memory/page_batch.h"
#include "memory/pager_counters.h"

namespace transship::memory {

enum class PageState : uint8_t {
  kAbsent = 0,   // never came, or dropped
  kContent = 1,  // in the data file
  kZero = 2,     // takes no memory
  kFilled = 3,   // given to the restored process; the store does not have it any more
};

// All calls are thread-safe; two threads must not put, or drop, the same page at the same time. Addresses are multiples
// of kPageBytes (anything else is kInvalidArgument, or no page). One PageStore per process and store.
class PageStore {
 public:
  static constexpr uint64_t kChunkBytes = 64ULL << 20;
  // Of all spaces together: 4 TiB of address space in which pages have arrived.
#ifdef __SANITIZE_THREAD__
  static constexpr uint32_t kMaxChunks = 4096;  // the thread sanitizer leaves 6 TiB for everything
#else
  static constexpr uint32_t kMaxChunks = 65536;
#endif

  // `byte_limit`: the most that content may take (the reservation).
  static Result<PageStore> create(uint64_t byte_limit);
  // The store of another process. kCorrupt when the files are not one.
  static Result<PageStore> attach(Fd header, Fd data);
  PageStore(PageStore&&) noexcept;
  PageStore& operator=(PageStore&&) = delete;
  ~PageStore();
  // Borrowed; for SCM_RIGHTS.
  int header_fd() const { return header_fd_.get(); }
  int data_fd() const { return data_fd_.get(); }

  // A page that is there already is replaced. A filled one is left alone: from the moment a pager expects a page, it
  // may only come with the content it had when the source was frozen. kNoSpace: the limit is reached, some of the
  // batch's pages may be there; kPeerProtocol: the batch is not a batch.
  Result<> put(const PageBatch& batch);

  PageState state(SpaceId space, uint64_t address) const;
  // Those of `ranges` of which no page ever came, or that were dropped; merged, in the order of `ranges`.
  std::vector<PageRange> missing(SpaceId space, std::span<const PageRange> ranges) const;
  // Reads `range` into `out` (range.bytes() long). kNotFound when a page of it is absent or filled.
  Result<> copy_out(SpaceId space, PageRange range, std::span<std::byte> out) const;

  // Makes pages absent: what is stale must come again, what the process has given up is never asked for.
  void drop(SpaceId space, PageRange range);
  void drop(SpaceId space);
  // All pages of the space outside of `ranges`, which ascend and do not overlap.
  void keep_only(SpaceId space, std::span<const PageRange> ranges);

  std::vector<SpaceId> spaces() const;
  // Content only.
  uint64_t bytes_held() const;
  // Pages of one space with content or zero.
  uint64_t pages_of(SpaceId space) const;
  uint64_t byte_limit() const;

  // The pager's part. `run`: how many pages from `address` on (at most `max_pages`, and never over the end of a chunk)
  // are in the same state, and where their content is.
  struct Run {
    PageState state = PageState::kAbsent;
    uint64_t pages = 0;
    const std::byte* content = nullptr;  // kContent only, and only after map_content()
  };
  Run run(SpaceId space, uint64_t address, uint64_t max_pages) const;
  // Maps the data file, read-only. Once, before other threads use the store.
  Result<> map_content();
  // Pages with content or zero become filled, their memory is given back.
  void mark_filled(SpaceId space, PageRange range);
  PagerCounters& counters() const;
  // No more pages come.
  void seal();
  bool sealed() const;

 private:
  struct Header;
  struct ChunkName;
  struct Place {
    uint32_t chunk = 0;
    uint32_t first = 0;  // page in the chunk
    uint64_t pages = 0;
    bool there = false;
  };
  struct Change {
    uint64_t changed = 0;
    uint64_t had_content = 0;
    bool met_filled = false;
  };
  using Key = std::pair<SpaceId, uint64_t>;

  PageStore(Fd header_fd, Fd data_fd, Header* header);
  static Result<Header*> map_header(int fd);
  Place place(SpaceId space, uint64_t address, uint64_t max_pages) const;
  Result<Place> make_place(SpaceId space, uint64_t address, uint64_t max_pages);
  void learn_chunks() const;
  std::vector<uint64_t> bases_of(SpaceId space) const;
  Run run_at(const Place& place) const;
  Change change(const Place& place, PageState to, bool keep_filled);
  uint64_t offset_of(const Place& place) const;
  void punch(const Place& place) const;
  Result<> write(const Place& place, std::span<const std::byte> data) const;
  Result<> reserve(const PageBatch& batch, uint64_t& reserved);
  Result<> put_content(SpaceId space, PageRange range, std::span<const std::byte> data, uint64_t& reserved);
  Result<> put_zero(SpaceId space, PageRange range);

  Fd header_fd_;
  Fd data_fd_;
  Header* header_ = nullptr;
  const std::byte* content_ = nullptr;
  // What this process knows of the header's table; grows only.
  std::unique_ptr<std::shared_mutex> mutex_;
  mutable std::map<Key, uint32_t> index_;
  mutable uint32_t known_ = 0;
};

}  // namespace transship::memory
