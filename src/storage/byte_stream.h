// Bytes in order, from one thread to another or to a lane: what a tree round or an image is written to and read from.
#pragma once
#include <cstddef>
#include <memory>
#include <span>

#include "base/cancel.h"
#include "base/mutex.h"
#include "base/result.h"

namespace transship::storage {

// One thread at a time. An error ends the use of it.
class Writer {
 public:
  virtual ~Writer() = default;
  // All of it, or an error. Blocks while the other end is slower.
  virtual Result<> write(std::span<const std::byte> data) = 0;
};

class Reader {
 public:
  virtual ~Reader() = default;
  // At least one byte; 0 only at the end of the stream. Blocks until something is there.
  virtual Result<size_t> read(std::span<std::byte> buffer) = 0;
};

// A bounded pipe in memory between the thread that receives and the thread that applies. One writer thread, one reader
// thread, which may be different; every call watches `cancel` and ends when nothing moved for `idle_limit`.
class StreamPipe final : public Writer, public Reader {
 public:
  static Result<std::unique_ptr<StreamPipe>> create(const Cancel& cancel, milliseconds idle_limit);
  // kUnavailable with the reader's reason once the reader has closed.
  Result<> write(std::span<const std::byte> data) override;
  Result<size_t> read(std::span<std::byte> buffer) override;
  // End of the stream; nothing may be written after it. Idempotent.
  void finish();
  // The reader gets `error` instead of the end of the stream, after what was written before it.
  void fail_reader(Error error);
  // The reader will read no more; the writer's next write fails with `error`.
  void fail_writer(Error error);

 private:
  StreamPipe(const Cancel& cancel, milliseconds idle_limit, Fd in, Fd out);
  Cancel cancel_;
  milliseconds idle_limit_;
  Fd in_, out_;
  Mutex mu_;
  std::unique_ptr<Error> for_reader_ GUARDED_BY(mu_);
  std::unique_ptr<Error> for_writer_ GUARDED_BY(mu_);
};

}  // namespace transship::storage
