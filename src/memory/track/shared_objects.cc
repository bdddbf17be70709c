#include "memory/track/shared_objects.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "memory/track/task_set.h"

namespace transship::memory {
namespace {

constexpr std::string_view kHugePages = "shares huge pages, which CRIU dumps";
constexpr std::array<std::byte, kPageBytes> kZeros{};

// CRIU brings its code into a task by a memfd, for as long as it dumps: beside our last round.
bool is_crius(std::string_view path) { return path.starts_with("/memfd:CRIUMFD"); }

uint64_t device_of(const Vma& vma) { return gnu_dev_makedev(vma.device_major, vma.device_minor); }

// Of the tmpfs that the kernel itself uses for shared memory: where a page of ours comes from.
Result<uint64_t> shared_memory_device() {
  void* page = ::mmap(nullptr, kPageBytes, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return fail_errno(errno, "map a page of shared memory");
  auto vmas = read_vmas(::getpid());
  (void)::munmap(page, kPageBytes);
  if (!vmas) return std::unexpected(std::move(vmas).error());
  // Neighbours of the same kind are one mapping only when they are one object; ours begins or lies where we mapped it.
  auto at = reinterpret_cast<uint64_t>(page);
  auto found = std::ranges::find_if(*vmas, [at](const Vma& v) { return v.start <= at && at < v.end; });
  if (found == vmas->end()) return fail(Errc::kInternal, "a mapping of our own is not in /proc/self/maps");
  return device_of(*found);
}

// Data from `at` on, or the file's end.
Result<bool> next_extent(int fd, uint64_t at, uint64_t& start, uint64_t& end) {
  off_t data = ::lseek(fd, static_cast<off_t>(at), SEEK_DATA);
  if (data < 0 && errno == ENXIO) return false;
  if (data < 0) return fail_errno(errno, "look for data in shared memory");
  off_t hole = ::lseek(fd, data, SEEK_HOLE);
  if (hole < 0) return fail_errno(errno, "look for a hole in shared memory");
  start = static_cast<uint64_t>(data) / kPageBytes * kPageBytes;
  end = (static_cast<uint64_t>(hole) + kPageBytes - 1) / kPageBytes * kPageBytes;
  return end > start;
}

}  // namespace

struct SharedObjects::Pass {
  const PageBlockSink& sink;
  const Cancel& cancel;
  SharedRoundStats stats = {};
  SpaceId space = {};
  std::vector<PageRange> ranges = {};
  std::vector<std::byte> content = std::vector<std::byte>(kBlockPages * kPageBytes);
  size_t filled = 0;  // pages

  Result<> put(uint64_t page, const std::byte* from) {
    append_range(ranges, page * kPageBytes, 1);
    std::memcpy(content.data() + filled * kPageBytes, from, kPageBytes);
    return ++filled == kBlockPages ? flush() : Result<>{};
  }
  Result<> flush() {
    if (filled == 0) return {};
    stats.pages += filled;
    auto result = sink({space, ranges, std::span(content).first(filled * kPageBytes)});
    ranges.clear();
    filled = 0;
    return result;
  }
};

SharedObjects::SharedObjects(TaskGroup group) : group_(std::move(group)), buffer_(kBlockPages * kPageBytes) {}

Result<> SharedObjects::discover_mapped(pid_t pid, const std::string& command, std::map<uint64_t, Object>& now) {
  TS_TRY_ASSIGN(TrackedTask task, identify_task(pid));
  TS_TRY_ASSIGN(std::vector<Vma> vmas, read_vmas(task.reader));
  bool huge = false;
  for (const auto& vma : vmas) {
    if (!vma.shared || is_crius(vma.path)) continue;
    if (vma.path.starts_with("/anon_hugepage")) huge = true;
    if (device_of(vma) != device_) continue;
    auto& object = now[vma.inode];
    bool system_v = vma.path.starts_with("/SYSV");
    // Inodes of System V segments are their identifiers, those of all else are counted: they can meet.
    if (!object.paths.empty() && object.system_v != system_v)
      return fail(Errc::kRefused, "process {} has a System V segment and other shared memory of the same number {}",
                  pid, vma.inode);
    object.system_v = system_v;
    object.paths.push_back(fmt::format("/proc/{}/map_files/{:x}-{:x}", task.reader, vma.start, vma.end));
  }
  if (huge) findings_.push_back({pid, command, std::string(kHugePages)});
  return {};
}

// Those that are open and not mapped; CRIU dumps them as well.
void SharedObjects::discover_memfds(pid_t pid, std::map<uint64_t, Object>& now) const {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", pid), error)) {
    std::error_code ignored;
    auto path = std::filesystem::read_symlink(entry.path(), ignored).string();
    if (!path.starts_with("/memfd:") || is_crius(path)) continue;
    struct stat info{};
    if (::stat(entry.path().c_str(), &info) == 0 && info.st_dev == device_)
      now[info.st_ino].paths.push_back(entry.path().string());
  }
}

Result<> SharedObjects::discover() {
  if (device_ == 0) {
    TS_TRY_ASSIGN(device_, shared_memory_device());
  }
  TS_TRY_ASSIGN(std::vector<pid_t> pids, group_.processes());
  findings_.clear();
  std::map<uint64_t, Object> now;
  for (pid_t pid : pids) {
    auto mapped = discover_mapped(pid, command_of(pid), now);
    if (!mapped && mapped.error().code() != Errc::kNotFound) return mapped;
    discover_memfds(pid, now);
  }
  for (auto& [inode, object] : now) {
    auto known = objects_.find(inode);
    if (known != objects_.end()) object.chunks = std::move(known->second.chunks);
  }
  objects_ = std::move(now);
  return {};
}

// kNotFound: nobody has it any more.
Result<Fd> SharedObjects::open_object(uint64_t inode, const Object& object) const {
  for (const auto& path : object.paths) {
    auto fd = open_file(path, O_RDONLY);
    struct stat info{};
    // Another object may be mapped there meanwhile.
    if (fd && ::fstat(fd->get(), &info) == 0 && info.st_ino == inode && info.st_dev == device_) return fd;
    // Or the descriptor has become a socket's (ENXIO): the container runs, or CRIU is at work in it.
    if (!fd && fd.error().code() != Errc::kNotFound && fd.error().sys_errno() != ENXIO) return fd;
  }
  return fail(Errc::kNotFound, "shared memory {} is no more", inode);
}

Result<> SharedObjects::compare_page(Object& object, uint64_t page, const std::byte* content, Pass& pass) {
  auto& chunk = object.chunks[page / kChunkPages];
  if (!chunk) chunk = std::make_unique<Chunk>();
  XXH128_hash_t h = XXH3_128bits(content, kPageBytes);
  Hash hash{h.low64, h.high64};
  chunk->seen.set(page % kChunkPages);
  Hash& sent = chunk->sent[page % kChunkPages];
  if (sent == hash) return {};
  sent = hash;
  return pass.put(page, content);
}

Result<> SharedObjects::read_extent(Object& object, int fd, uint64_t start, uint64_t end, Pass& pass) {
  while (start < end) {
    TS_TRY(pass.cancel.check());
    size_t ask = std::min<uint64_t>(end - start, buffer_.size());
    ssize_t n = retry_eintr([&] { return ::pread(fd, buffer_.data(), ask, static_cast<off_t>(start)); });
    if (n < 0) return fail_errno(errno, "read shared memory {}", pass.space.id);
    if (n == 0) return {};  // became shorter
    // The last page of an object need not be whole.
    auto got = static_cast<size_t>(n);
    size_t pages = (got + kPageBytes - 1) / kPageBytes;
    std::memset(buffer_.data() + got, 0, pages * kPageBytes - got);
    pass.stats.pages_read += pages;
    for (size_t i = 0; i < pages; ++i)
      TS_TRY(compare_page(object, start / kPageBytes + i, buffer_.data() + i * kPageBytes, pass));
    start += pages * kPageBytes;
  }
  return {};
}

Result<> SharedObjects::send_holes(Object& object, Pass& pass) {
  for (auto& [index, chunk] : object.chunks) {
    for (uint64_t i = 0; i < kChunkPages; ++i) {
      if (chunk->seen.test(i) || chunk->sent[i] == Hash{}) continue;
      chunk->sent[i] = {};
      TS_TRY(pass.put(index * kChunkPages + i, kZeros.data()));
    }
    chunk->seen.reset();
  }
  return pass.flush();
}

Result<> SharedObjects::read_object(Object& object, int fd, Pass& pass) {
  uint64_t start = 0;
  uint64_t end = 0;
  while (true) {
    TS_TRY_ASSIGN(bool more, next_extent(fd, end, start, end));
    if (!more) break;
    TS_TRY(read_extent(object, fd, start, end, pass));
  }
  return send_holes(object, pass);
}

Result<SharedRoundStats> SharedObjects::round(const PageBlockSink& sink, const Cancel& cancel) {
  auto begin = Clock::now();
  ++rounds_;
  TS_TRY(discover());
  Pass pass{sink, cancel};
  for (auto& [inode, object] : objects_) {
    auto fd = open_object(inode, object);
    if (!fd && fd.error().code() == Errc::kNotFound) continue;
    if (!fd) return std::unexpected(std::move(fd).error().context(fmt::format("open shared memory {}", inode)));
    pass.space = {SpaceKind::kShared, inode};
    TS_TRY(read_object(object, fd->get(), pass));
    object.read_in = rounds_;
    ++pass.stats.objects;
  }
  pass.stats.took = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin);
  return pass.stats;
}

std::vector<PageRange> SharedObjects::sent(uint64_t inode, PageRange range) const {
  std::vector<PageRange> found;
  auto object = objects_.find(inode);
  if (object == objects_.end() || object->second.read_in != rounds_) return found;
  const auto& chunks = object->second.chunks;
  uint64_t end = range.end() / kPageBytes;
  for (uint64_t page = range.address / kPageBytes; page < end;) {
    uint64_t next = std::min(end, (page / kChunkPages + 1) * kChunkPages);
    auto chunk = chunks.find(page / kChunkPages);
    for (; chunk != chunks.end() && page < next; ++page)
      if (chunk->second->sent[page % kChunkPages] != Hash{}) append_range(found, page * kPageBytes, 1);
    page = next;
  }
  return found;
}

}  // namespace transship::memory
