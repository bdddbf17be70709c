// What goes into the store, what comes out of it, and what is dropped.
#include <algorithm>

#include "memory/page_store_layout.h"

namespace transship::memory {

Result<> PageStore::write(const Place& p, std::span<const std::byte> data) const {
  for (size_t done = 0; done < data.size();) {
    auto n = retry_eintr([&] {
      return ::pwrite(data_fd_.get(), data.data() + done, data.size() - done, static_cast<off_t>(offset_of(p) + done));
    });
    if (n <= 0) return fail_errno(n < 0 ? errno : ENOSPC, "keep {} bytes of memory pages", data.size());
    done += static_cast<size_t>(n);
  }
  return {};
}

// Takes the memory of all pages that are new, before any is written.
Result<> PageStore::reserve(const PageBatch& batch, uint64_t& reserved) {
  for (const auto& segment : batch.segments) {
    if (segment.zero) continue;
    for (uint64_t done = 0; done < segment.range.pages;) {
      auto r = run(batch.space, segment.range.address + done * kPageBytes, segment.range.pages - done);
      if (r.state == PageState::kAbsent || r.state == PageState::kZero) reserved += r.pages;
      done += r.pages;
    }
  }
  auto limit = header_->limit_pages.load();
  auto before = header_->held_pages.fetch_add(reserved);
  if (before + reserved <= limit) return {};
  header_->held_pages.fetch_sub(std::exchange(reserved, 0));
  return fail(Errc::kNoSpace, "memory pages that have arrived take more than the {} bytes reserved for them",
              limit * kPageBytes);
}

Result<> PageStore::put_content(SpaceId space, PageRange range, std::span<const std::byte> data, uint64_t& reserved) {
  for (uint64_t done = 0; done < range.pages;) {
    TS_TRY_ASSIGN(Place p, make_place(space, range.address + done * kPageBytes, range.pages - done));
    auto run = run_at(p);
    p.pages = run.pages;
    if (run.state != PageState::kFilled) {
      TS_TRY(write(p, data.subspan(done * kPageBytes, p.pages * kPageBytes)));
      auto changed = change(p, PageState::kContent, true);
      reserved -= std::min(reserved, changed.changed - changed.had_content);
      // The pager has filled some of them meanwhile: what was written again is not wanted.
      for (Place filled = p; changed.met_filled && filled.first < p.first + p.pages;) {
        filled.pages = p.first + p.pages - filled.first;
        auto r = run_at(filled);
        filled.pages = r.pages;
        if (r.state == PageState::kFilled) punch(filled);
        filled.first += static_cast<uint32_t>(r.pages);
      }
    }
    done += p.pages;
  }
  return {};
}

Result<> PageStore::put_zero(SpaceId space, PageRange range) {
  for (uint64_t done = 0; done < range.pages;) {
    TS_TRY_ASSIGN(Place p, make_place(space, range.address + done * kPageBytes, range.pages - done));
    auto changed = change(p, PageState::kZero, true);
    if (changed.had_content > 0) {
      punch(p);
      header_->held_pages.fetch_sub(changed.had_content);
    }
    done += p.pages;
  }
  return {};
}

Result<> PageStore::put(const PageBatch& batch) {
  if (!usable(batch.space)) return fail(Errc::kPeerProtocol, "a batch of pages belongs to nothing");
  uint64_t bytes = 0;
  for (const auto& s : batch.segments) {
    if (!usable(s.range)) return fail(Errc::kPeerProtocol, "a batch has no pages at {:#x}", s.range.address);
    bytes += s.zero ? 0 : std::min(s.range.bytes(), kDataBytes);
  }
  if (bytes != batch.content.size() || bytes > kDataBytes)
    return fail(Errc::kPeerProtocol, "a batch of {} bytes of pages has {} bytes of content", bytes,
                batch.content.size());
  uint64_t reserved = 0;
  TS_TRY(reserve(batch, reserved));
  Result<> result;
  auto content = batch.content;
  for (const auto& s : batch.segments) {
    result = s.zero ? put_zero(batch.space, s.range) : put_content(batch.space, s.range, content, reserved);
    if (!result) break;
    if (!s.zero) content = content.subspan(s.range.bytes());
  }
  header_->held_pages.fetch_sub(reserved);
  return result;
}

PageState PageStore::state(SpaceId space, uint64_t address) const { return run(space, address, 1).state; }

std::vector<PageRange> PageStore::missing(SpaceId space, std::span<const PageRange> ranges) const {
  std::vector<PageRange> list;
  for (const auto& range : ranges) {
    for (uint64_t done = 0; done < range.pages;) {
      auto address = range.address + done * kPageBytes;
      auto r = run(space, address, range.pages - done);
      done += r.pages;
      if (r.state != PageState::kAbsent) continue;
      if (!list.empty() && list.back().end() == address) {
        list.back().pages += r.pages;
      } else {
        list.push_back({address, r.pages});
      }
    }
  }
  return list;
}

Result<> PageStore::copy_out(SpaceId space, PageRange range, std::span<std::byte> out) const {
  if (!usable(range) || out.size() != range.bytes())
    return fail(Errc::kInvalidArgument, "read {} pages at {:#x} into {} bytes", range.pages, range.address, out.size());
  for (uint64_t done = 0; done < range.pages;) {
    auto address = range.address + done * kPageBytes;
    auto p = place(space, address, range.pages - done);
    auto r = run_at(p);
    auto part = out.subspan(done * kPageBytes, r.pages * kPageBytes);
    if (r.state == PageState::kAbsent || r.state == PageState::kFilled)
      return fail(Errc::kNotFound, "page {:#x} of {} is not in the store", address, space.id);
    if (r.state == PageState::kZero) std::ranges::fill(part, std::byte{0});
    for (size_t n = r.state == PageState::kZero ? part.size() : 0; n < part.size();) {
      auto got = retry_eintr([&] {
        return ::pread(data_fd_.get(), part.data() + n, part.size() - n, static_cast<off_t>(offset_of(p) + n));
      });
      if (got <= 0) return fail_errno(got < 0 ? errno : EIO, "read page {:#x} of {} from the store", address, space.id);
      n += static_cast<size_t>(got);
    }
    done += r.pages;
  }
  return {};
}

void PageStore::drop(SpaceId space, PageRange range) {
  if (range.pages > kChunkPages) {
    // Perhaps most of an address space: only the chunks that are there count.
    for (auto base : bases_of(space)) {
      auto begin = std::max(base, range.address);
      auto end = std::min(base + kChunkBytes, range.end());
      if (begin < end) drop(space, {begin, (end - begin) / kPageBytes});
    }
    return;
  }
  for (uint64_t done = 0; done < range.pages;) {
    auto p = place(space, range.address + done * kPageBytes, range.pages - done);
    done += p.pages;
    if (!p.there) continue;
    auto changed = change(p, PageState::kAbsent, false);
    if (changed.had_content == 0) continue;
    punch(p);
    header_->held_pages.fetch_sub(changed.had_content);
  }
}

std::vector<uint64_t> PageStore::bases_of(SpaceId space) const {
  std::unique_lock lock(*mutex_);
  learn_chunks();
  std::vector<uint64_t> bases;
  for (auto it = index_.lower_bound({space, 0}); it != index_.end() && it->first.first == space; ++it)
    bases.push_back(it->first.second);
  return bases;
}

void PageStore::drop(SpaceId space) { keep_only(space, {}); }

void PageStore::keep_only(SpaceId space, std::span<const PageRange> ranges) {
  for (auto base : bases_of(space)) {
    auto end = base + kChunkBytes;
    auto at = base;
    auto next = std::ranges::lower_bound(ranges, base + 1, {}, &PageRange::end);
    for (; next != ranges.end() && next->address < end; ++next) {
      if (next->address > at) drop(space, {at, (next->address - at) / kPageBytes});
      at = std::max(at, std::min(end, next->end()));
    }
    if (at < end) drop(space, {at, (end - at) / kPageBytes});
  }
}

std::vector<SpaceId> PageStore::spaces() const {
  std::unique_lock lock(*mutex_);
  learn_chunks();
  std::vector<SpaceId> list;
  for (const auto& [key, chunk] : index_) {
    if (list.empty() || list.back() != key.first) list.push_back(key.first);
  }
  return list;
}

uint64_t PageStore::pages_of(SpaceId space) const {
  uint64_t pages = 0;
  for (auto base : bases_of(space)) {
    for (auto at = base; at < base + kChunkBytes;) {
      auto r = run(space, at, (base + kChunkBytes - at) / kPageBytes);
      if (r.state == PageState::kContent || r.state == PageState::kZero) pages += r.pages;
      at += r.pages * kPageBytes;
    }
  }
  return pages;
}

uint64_t PageStore::bytes_held() const { return header_->held_pages.load() * kPageBytes; }
uint64_t PageStore::byte_limit() const { return header_->limit_pages.load() * kPageBytes; }

void PageStore::mark_filled(SpaceId space, PageRange range) {
  for (uint64_t done = 0; done < range.pages;) {
    auto p = place(space, range.address + done * kPageBytes, range.pages - done);
    auto r = run_at(p);
    p.pages = r.pages;
    done += r.pages;
    if (!p.there || (r.state != PageState::kContent && r.state != PageState::kZero)) continue;
    auto changed = change(p, PageState::kFilled, true);
    if (changed.had_content == 0) continue;
    punch(p);
    header_->held_pages.fetch_sub(changed.had_content);
  }
}

}  // namespace transship::memory
