#include "storage/written/test_disk.h"

#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>

#include "base/fd.h"
#include "sys/process.h"

namespace transship::storage::testing {
namespace {

constexpr off_t kSize = 400 << 20;  // mkfs.xfs makes none below 300 MiB

}  // namespace

TestDisk::TestDisk(const DiskKind& kind) : why_not_(make(kind)) {}

std::string TestDisk::make(const DiskKind& kind) {
  if (::geteuid() != 0) return "needs root";
  if (::unshare(CLONE_NEWNS) < 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0)
    return "no mount namespace: " + errno_text(errno);
  auto image = open_file(image_ / "disk", O_RDWR | O_CREAT, 0600);
  if (!image || ::ftruncate(image->get(), kSize) < 0) return "no room for an image";
  auto command = kind.mkfs;
  command.push_back(image_ / "disk");
  if (auto made = sys::run_ok({.argv = command}); !made) return made.error().message();
  auto mounted = sys::run_ok({.argv = {"mount", "-o", kind.options, image_ / "disk", mounted_.path()}});
  if (!mounted) return mounted.error().message();
  // Tests that run at the same time see each other's events of files with the same number: so that there are none.
  for (int i = ::getpid() % 500 * 5; i > 0; --i)
    if (auto made = open_file(mounted_ / fmt::format("number-{}", i), O_WRONLY | O_CREAT, 0600); !made)
      return made.error().message();
  return "";
}

TestDisk::~TestDisk() { (void)::umount2(mounted_.path().c_str(), MNT_DETACH); }

}  // namespace transship::storage::testing
