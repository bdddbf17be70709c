#include "memory/shared_store.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>

namespace transship::memory {
namespace {

// A peer could send every other page of something endless, each a few bytes on the wire.
constexpr size_t kMaxRanges = 1U << 20;

Result<> write_at(int file, uint64_t offset, std::span<const std::byte> data) {
  while (!data.empty()) {
    auto n = retry_eintr([&] { return ::pwrite(file, data.data(), data.size(), static_cast<off_t>(offset)); });
    if (n <= 0) return fail_errno(n < 0 ? errno : ENOSPC, "keep {} bytes of shared memory", data.size());
    data = data.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return {};
}

void punch(int file, PageRange range) {
  (void)retry_eintr([&] {
    return ::fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(range.address),
                       static_cast<off_t>(range.bytes()));
  });
}

}  // namespace

std::shared_ptr<SharedStore::Object> SharedStore::find(uint64_t id) const {
  MutexLock lock(mu_);
  auto it = objects_.find(id);
  return it == objects_.end() ? nullptr : it->second;
}

// Null when there are enough others.
Result<std::shared_ptr<SharedStore::Object>> SharedStore::find_or_make(uint64_t id) {
  MutexLock lock(mu_);
  if (auto it = objects_.find(id); it != objects_.end()) return it->second;
  if (objects_.size() == max_objects_) return nullptr;
  auto object = std::make_shared<Object>();
  object->file = Fd(::memfd_create(kName, MFD_CLOEXEC));
  if (!object->file.valid()) return fail_errno(errno, "make a file for shared memory");
  objects_[id] = object;
  return object;
}

Result<> SharedStore::put_segment(Object& object, const PageSegment& segment, std::span<const std::byte> content) {
  if (!segment.zero) {
    TS_TRY(write_at(object.file.get(), segment.range.address, content));
  } else if (object.arrived.overlaps(segment.range)) {
    punch(object.file.get(), segment.range);
  }
  object.arrived.add(segment.range);
  if (object.arrived.count() > kMaxRanges) return fail(Errc::kNoSpace, "shared memory arrives in too many pieces");
  return {};
}

void SharedStore::count(Object& object) {
  struct stat st{};
  if (::fstat(object.file.get(), &st) != 0) return;
  auto now = static_cast<uint64_t>(st.st_blocks) * 512;
  held_ += now - object.held;
  object.held = now;
}

Result<bool> SharedStore::put(const PageBatch& batch) {
  TS_TRY_ASSIGN(auto object, find_or_make(batch.space.id));
  if (!object) return false;
  MutexLock lock(object->mu);
  Result<> result;
  auto content = batch.content;
  for (const auto& segment : batch.segments) {
    auto bytes = segment.zero ? 0 : segment.range.bytes();
    if (bytes > content.size()) return fail(Errc::kPeerProtocol, "a batch has less content than pages");
    result = put_segment(*object, segment, content.first(bytes));
    if (!result) break;
    content = content.subspan(bytes);
  }
  count(*object);
  if (!result) return std::unexpected(std::move(result).error());
  return true;
}

void SharedStore::drop(uint64_t id, PageRange range) {
  auto object = find(id);
  if (!object) return;
  MutexLock lock(object->mu);
  if (!object->arrived.overlaps(range)) return;
  object->arrived.remove(range);
  punch(object->file.get(), range);
  count(*object);
}

std::vector<uint64_t> SharedStore::ids() const {
  MutexLock lock(mu_);
  std::vector<uint64_t> list;
  for (const auto& [id, object] : objects_) list.push_back(id);
  return list;
}

int SharedStore::file(uint64_t id) const {
  auto object = find(id);
  return object ? object->file.get() : -1;
}

std::vector<PageRange> SharedStore::missing(uint64_t id, std::span<const PageRange> ranges) const {
  auto object = find(id);
  if (!object) return {ranges.begin(), ranges.end()};
  MutexLock lock(object->mu);
  return object->arrived.missing(ranges);
}

Result<> SharedStore::read(uint64_t id, uint64_t address, std::span<std::byte> out) const {
  PageRange range{address, out.size() / kPageBytes};
  if (!missing(id, std::array{range}).empty())
    return fail(Errc::kNotFound, "shared memory {}: not all of {} pages at {:#x} has arrived", id, range.pages,
                address);
  int from = file(id);
  while (!out.empty()) {
    auto n = retry_eintr([&] { return ::pread(from, out.data(), out.size(), static_cast<off_t>(address)); });
    if (n < 0) return fail_errno(errno, "read shared memory {} at {:#x}", id, address);
    // Behind the last page with content all is zero.
    if (n == 0) std::ranges::fill(out, std::byte{0});
    auto got = n == 0 ? out.size() : static_cast<size_t>(n);
    out = out.subspan(got);
    address += got;
  }
  return {};
}

}  // namespace transship::memory
