#include "memory/track/userfaultfd.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <cerrno>

#include "memory/page.h"

namespace transship::memory {
namespace {
constexpr uint64_t kWriteProtectAsync = 1U << 15;  // UFFD_FEATURE_WP_ASYNC of Linux 6.7

// 0 or an errno.
int lift_protection(int uffd, uint64_t start, uint64_t end) {
  uffdio_writeprotect request{};
  request.range = {start, end - start};
  return ::ioctl(uffd, UFFDIO_WRITEPROTECT, &request) == 0 ? 0 : errno;
}

}  // namespace

Result<> enable_write_protection(int uffd) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = kWriteProtectAsync;
  if (::ioctl(uffd, UFFDIO_API, &api) == 0) return {};
  int error = errno;
  if (error == EINVAL)
    return fail(Errc::kKernelFeatureMissing,
                "userfaultfd has no asynchronous write-protection: it came with Linux 6.7");
  return fail_errno(error, "enable write-protection");
}

Result<Registration> register_range(int uffd, uint64_t start, uint64_t end) {
  uffdio_register request{};
  request.range = {start, end - start};
  request.mode = UFFDIO_REGISTER_MODE_WP;
  if (::ioctl(uffd, UFFDIO_REGISTER, &request) == 0) return Registration::kDone;
  int error = errno;
  switch (error) {
    case EBUSY: return Registration::kBusy;
    case EINVAL:
    case EPERM: return Registration::kVanished;
    case ENOMEM: return Registration::kOtherMemory;
    default: return fail_errno(error, "register {:x}-{:x} with userfaultfd", start, end);
  }
}

Result<bool> unprotect_range(int uffd, uint64_t start, uint64_t end) {
  int error = lift_protection(uffd, start, end);
  if (error == 0) return true;
  if (error == ENOENT || error == ESRCH || error == EAGAIN) return false;
  return fail_errno(error, "lift the protection of {:x}-{:x}", start, end);
}

// The kernel looks for the address space before it looks for the page in it. Registering something would tell too, but
// would also hide that it had lost its registration.
Result<bool> address_space_lives(int uffd, uint64_t page) {
  int error = lift_protection(uffd, page, page + kPageBytes);
  if (error == 0 || error == ENOENT) return true;
  if (error == ESRCH) return false;
  return fail_errno(error, "ask whether an address space lives");
}

}  // namespace transship::memory
