// Bytes in order, to and from one peer.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/cancel.h"
#include "base/result.h"

namespace transship::wire {

// No progress on a connection for this long means that it is dead.
inline constexpr milliseconds kStallLimit{15'000};

// One thread at a time, except for shutdown(). After an error the stream is of no use any more.
class Stream {
 public:
  virtual ~Stream() = default;
  // At least one byte; 0 when the peer ended the stream properly. A cut connection is kUnavailable.
  virtual Result<size_t> read_some(std::span<std::byte> buffer, Deadline deadline, const Cancel& cancel) = 0;
  // At least one byte is written; returns how many.
  virtual Result<size_t> write_some(std::span<const std::byte> data, Deadline deadline, const Cancel& cancel) = 0;
  // Can read_some() go on without waiting? (Data, an end or an error.) Never waits itself.
  virtual Result<bool> readable_now() = 0;
  // Tells the peer that nothing follows. Best effort, never waits.
  virtual void finish() = 0;
  // From any thread: every operation, also one that waits now, fails at once. The object stays usable for nothing else.
  virtual void shutdown() noexcept = 0;
  // Who is on the other side, for messages.
  virtual const std::string& peer() const = 0;
  // From any thread: bytes handed to the network so far, with everything that encryption adds.
  virtual uint64_t wire_bytes_written() const = 0;
  // Borrowed; for poll() on hang-up only.
  virtual int fd() const = 0;

  // The whole buffer by the deadline; an end before that is kUnavailable.
  Result<> read_exact(std::span<std::byte> buffer, Deadline deadline, const Cancel& cancel);
  Result<> write_all(std::span<const std::byte> data, Deadline deadline, const Cancel& cancel);
  // The same, but the deadline starts again whenever something moved.
  Result<> read_steadily(std::span<std::byte> buffer, milliseconds stall, const Cancel& cancel);
  Result<> write_steadily(std::span<const std::byte> data, milliseconds stall, const Cancel& cancel);
};

// Fires `target` when the peer hangs up while we are busy and not reading; ends with the object.
class HangupWatch {
 public:
  static Result<HangupWatch> start(const Stream& stream, Cancel target);
  HangupWatch(HangupWatch&&) noexcept;
  HangupWatch& operator=(HangupWatch&&) noexcept;
  ~HangupWatch();

 private:
  struct State;
  explicit HangupWatch(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace transship::wire
