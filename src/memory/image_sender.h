// Ships CRIU's image directory. Where CRIU cannot be kept from copying memory, while CRIU still writes it: pages then
// leave from start() on. Otherwise pages travel by PageSender, and only what is not memory is left to this class.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/thread.h"

namespace transship::memory {

struct ImageFile {
  std::string name;
  uint64_t size = 0;
};

// One owner; the sending itself is done on a thread of its own between start() and finish().
class ImageSender {
 public:
  // Blocks for backpressure. Called for one chunk at a time, offsets of a file ascending.
  using Send = std::function<Result<>(const std::string& name, uint64_t offset, std::span<const std::byte> data)>;

  ImageSender(std::string directory, Send send, Cancel cancel);
  ~ImageSender();
  ImageSender(const ImageSender&) = delete;
  ImageSender& operator=(const ImageSender&) = delete;

  // One whole file at once; before start().
  Result<> send_now(const std::string& name);
  // Begins to follow the page files (pages-*.img): they are only ever appended to, so what is there can go. Every other
  // image is small and may be rewritten until the dump is done.
  void start();
  // The dump is complete: nothing in the directory changes any more. After this, total() is exact.
  Result<> dump_done();
  // Sends what is left; returns every file with its size. Requires dump_done().
  Result<std::vector<ImageFile>> finish();

  uint64_t sent() const { return sent_; }
  uint64_t total() const { return total_; }

 private:
  struct File {
    Fd fd;
    uint64_t sent = 0;
  };
  Result<> follow();
  Result<bool> send_growth(bool pages_only, bool whole_chunks);
  Result<> send_file(const std::string& name, uint64_t size, bool whole_chunks, bool& any);

  const std::string directory_;
  const Send send_;
  const Cancel cancel_;
  std::vector<std::byte> buffer_;
  std::map<std::string, File> files_;
  std::atomic<bool> done_ = false;
  std::atomic<uint64_t> sent_ = 0;
  std::atomic<uint64_t> total_ = 0;
  Result<> outcome_;
  Thread thread_;
};

}  // namespace transship::memory
