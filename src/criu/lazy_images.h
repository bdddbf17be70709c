// Images of a dump that left memory out, made ready for a lazy restore: what may come while the tasks already run is
// left to a pager, all else is put into the images now.
#pragma once
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace transship::criu {

// Whose pages: private memory of the process with this pid (in its innermost namespace; the numbers of the images), or
// those of the shared memory object with this id of CRIU's.
struct ImageSpace {
  bool shared = false;
  uint64_t id = 0;
  auto operator<=>(const ImageSpace&) const = default;
};

// `address` in bytes, a multiple of 4096: in the process, or from the object's beginning.
struct ImageRange {
  uint64_t address = 0;
  uint64_t pages = 0;
  bool operator==(const ImageRange&) const = default;
};

struct MissingPages {
  ImageSpace space;
  std::vector<ImageRange> lazy;   // for the pager; none crosses the end of a mapping
  std::vector<ImageRange> eager;  // CRIU itself must find them in the images
  // Of `lazy`: the kernel may write to them while CRIU restores (restartable sequences of a thread that is preempted),
  // and CRIU then waits for the pager. plan_lazy_restore() only.
  std::vector<ImageRange> early;
};

struct LazyPlan {
  // One for every process of the images, also when nothing of it is missing (CRIU announces it to the pager all the
  // same), then the shared objects. Ranges ascend, and do not overlap, not even between `lazy` and `eager`.
  std::vector<MissingPages> spaces;
  uint64_t lazy_pages = 0;
  uint64_t eager_pages = 0;
  uint64_t present_pages = 0;  // that CRIU wrote by itself
};

// Where the content of eager pages comes from. Used by one thread.
class PageSource {
 public:
  virtual ~PageSource() = default;
  // Fills `out`, whole pages, from `address` on. Any failure ends the preparation.
  virtual Result<> read(ImageSpace space, uint64_t address, std::span<std::byte> out) = 0;
  // The same into a file, for sources that can do it without a copy. By default in pieces by way of read().
  virtual Result<> write_to(int fd, uint64_t offset, ImageSpace space, ImageRange range);
};

// What is missing in the images, nothing is changed. On the source, after the dump: what has to be sent. kCorrupt: they
// are not what CRIU makes, or all pages together are more than `limit_bytes`.
Result<LazyPlan> plan_lazy_restore(const std::string& images_dir, uint64_t limit_bytes);

// On the destination, before the images come: takes memory for the pages of a shared object, about `bytes` of them, and
// leaves it to prepare_lazy_restore(). To get fresh memory takes longer than to copy the pages into it, and the tasks
// stand still by then. No object of that id in the images, or one of another size: nothing is lost.
Result<> reserve_shared_pages(const std::string& images_dir, uint64_t id, uint64_t bytes);

// On the destination: the images are complete except for memory. Afterwards they are fit for a restore with lazy pages
// and hold every eager page. The images may come from a peer: nothing outside of the directory is read or written, and
// no more than `limit_bytes` of pages. After a failure the directory is of no use any more.
Result<LazyPlan> prepare_lazy_restore(const std::string& images_dir, PageSource& source, uint64_t limit_bytes);

}  // namespace transship::criu
