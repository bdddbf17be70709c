#include "memory/uffd.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <numeric>
#include <string>
#include <string_view>

namespace transship::memory {
namespace {

FillResult sorted(int error, int64_t filled) {
  FillResult r;
  r.bytes = filled > 0 ? static_cast<uint64_t>(filled) : 0;
  r.error = error;
  switch (error) {
    case EEXIST: r.end = FillEnd::kExists; break;
    case EAGAIN:
      // Also after a part: then only the next call tells why it ended.
      r.end = r.bytes > 0 ? FillEnd::kDone : FillEnd::kEvents;
      break;
    case ENOENT: r.end = FillEnd::kUnmapped; break;
    case ESRCH:
    case ENOSPC:  // what older kernels say
      r.end = FillEnd::kGone;
      break;
    case ENOMEM: r.end = FillEnd::kNoMemory; break;
    default: r.end = FillEnd::kFailed;
  }
  return r;
}

}  // namespace

FillResult uffd_copy(int uffd, uint64_t to, const std::byte* from, uint64_t bytes) {
  uffdio_copy call{};  // its result is zero before: one way out of the kernel does not write it
  call.dst = to;
  call.src = reinterpret_cast<uint64_t>(from);
  call.len = bytes;
  if (::ioctl(uffd, UFFDIO_COPY, &call) == 0) return {.bytes = bytes, .end = FillEnd::kDone, .error = 0};
  int error = errno;
  return sorted(error, call.copy);
}

FillResult uffd_zero(int uffd, uint64_t to, uint64_t bytes) {
  uffdio_zeropage call{};
  call.range = {.start = to, .len = bytes};
  if (::ioctl(uffd, UFFDIO_ZEROPAGE, &call) == 0) return {.bytes = bytes, .end = FillEnd::kDone, .error = 0};
  int error = errno;
  return sorted(error, call.zeropage);
}

bool uffd_wake(int uffd, uint64_t address, uint64_t bytes) {
  uffdio_range range{.start = address, .len = bytes};
  return ::ioctl(uffd, UFFDIO_WAKE, &range) == 0;
}

// The kernel refuses a range that begins below mmap_min_addr (which can be changed, and differs between its security
// modules) or ends above the highest address of this process (which depends on machine, kernel and program). Both are
// found by asking: a step costs less than a microsecond.
bool uffd_wake_all(int uffd) {
  constexpr uint64_t kPage = 4096;
  constexpr uint64_t kInside = (uint64_t{1} << 30) / kPage;
  // The page beside `refused` that is taken, on the side of `taken`.
  auto border = [&](uint64_t refused, uint64_t taken) {
    while (taken > refused ? taken - refused > 1 : refused - taken > 1) {
      auto middle = std::midpoint(refused, taken);
      (uffd_wake(uffd, middle * kPage, kPage) ? taken : refused) = middle;
    }
    return taken;
  };
  if (!uffd_wake(uffd, kInside * kPage, kPage)) return false;
  auto first = uffd_wake(uffd, 0, kPage) ? 0 : border(0, kInside);
  auto last = border((uint64_t{1} << 62) / kPage, kInside);
  return uffd_wake(uffd, first * kPage, (last + 1 - first) * kPage);
}

bool is_uffd(int fd) {
  std::array<char, 64> name{};
  auto n = ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), name.data(), name.size());
  return n > 0 && std::string_view(name.data(), static_cast<size_t>(n)) == "anon_inode:[userfaultfd]";
}

}  // namespace transship::memory
