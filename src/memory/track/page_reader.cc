#include "memory/track/page_reader.h"

#include <sys/uio.h>

#include <algorithm>
#include <array>

#include "base/fd.h"

namespace transship::memory {
namespace {

constexpr size_t kMaxPieces = 128;
static_assert(kMaxPieces <= IOV_MAX);

}  // namespace

// How far the ranges have been read.
struct PageReader::Cursor {
  const PageRuns& runs;
  size_t index = 0;
  uint64_t page = 0;  // of runs.ranges[index]

  bool at_end() const { return index == runs.ranges.size(); }
  uint64_t address() const { return runs.ranges[index].address + page * kPageBytes; }
  uint64_t left() const { return runs.ranges[index].pages - page; }
  void advance(uint64_t pages) {
    while (pages > 0) {
      uint64_t step = std::min(pages, left());
      page += step;
      pages -= step;
      if (left() == 0) {
        ++index;
        page = 0;
      }
    }
  }
};

PageReader::PageReader() : buffer_(kBlockPages * kPageBytes) {}

// One page that process_vm_readv refuses: PROT_NONE and write-only ones can be read here.
bool PageReader::read_one(pid_t pid, uint64_t address) {
  auto mem = open_file(fmt::format("/proc/{}/mem", pid), O_RDONLY);
  if (!mem) return false;
  std::byte* to = buffer_.data() + filled_pages_ * kPageBytes;
  auto offset = static_cast<off_t>(address);
  ssize_t n = retry_eintr([&] { return ::pread(mem->get(), to, kPageBytes, offset); });
  return n == static_cast<ssize_t>(kPageBytes);
}

// As much as one call gives. Stops at the first page that cannot be read; that one is then looked at by itself.
Result<> PageReader::fill(Cursor& cursor, ReadStats& stats) {
  std::array<iovec, kMaxPieces> remote;
  size_t pieces = 0;
  uint64_t wanted = 0;
  uint64_t room = kBlockPages - filled_pages_;
  for (Cursor ahead = cursor; !ahead.at_end() && pieces < kMaxPieces && wanted < room; ++pieces) {
    uint64_t pages = std::min(ahead.left(), room - wanted);
    remote[pieces] = {reinterpret_cast<void*>(ahead.address()),
                      pages * kPageBytes};  // NOLINT(performance-no-int-to-ptr)
    wanted += pages;
    ahead.advance(pages);
  }
  iovec local{buffer_.data() + filled_pages_ * kPageBytes, wanted * kPageBytes};
  ssize_t n = ::process_vm_readv(cursor.runs.pid, &local, 1, remote.data(), pieces, 0);
  int error = n < 0 ? errno : 0;  // of an earlier call otherwise
  if (n < 0 && error == EPERM) return fail_errno(error, "read the memory of process {}", cursor.runs.pid);
  auto take = [&](uint64_t pages) {
    while (pages > 0) {
      uint64_t step = std::min(pages, cursor.left());
      append_range(filled_, cursor.address(), step);
      filled_pages_ += step;
      pages -= step;
      cursor.advance(step);
    }
  };
  uint64_t whole = n > 0 ? static_cast<uint64_t>(n) / kPageBytes : 0;
  take(whole);
  if (whole == wanted) return {};
  if (error != ESRCH && read_one(cursor.runs.pid, cursor.address())) {
    take(1);
    return {};
  }
  append_range(stats.gone, cursor.address(), 1);
  cursor.advance(1);
  return {};
}

Result<ReadStats> PageReader::read(const PageRuns& runs, const PageBlockSink& sink, const Cancel& cancel) {
  ReadStats stats;
  for (Cursor cursor{runs}; !cursor.at_end();) {
    filled_.clear();
    filled_pages_ = 0;
    while (!cursor.at_end() && filled_pages_ < kBlockPages) {
      TS_TRY(cancel.check());
      TS_TRY(fill(cursor, stats));
    }
    if (filled_pages_ == 0) continue;
    stats.pages += filled_pages_;
    TS_TRY(sink({runs.space, filled_, std::span(buffer_).first(filled_pages_ * kPageBytes)}));
  }
  return stats;
}

}  // namespace transship::memory
