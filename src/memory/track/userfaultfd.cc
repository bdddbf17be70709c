#include "memory/track/userfaultfd.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <cerrno>

namespace transship::memory {
namespace {
constexpr uint64_t kWriteProtectAsync = 1U << 15;  // UFFD_FEATURE_WP_ASYNC of Linux 6.7
}

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

}  // namespace transship::memory
