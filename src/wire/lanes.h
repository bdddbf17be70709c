// Data lanes: several TLS connections that carry chunks of named files and streams from the source to the destination.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "wire/session.h"

namespace transship::wire {

using Buffer = std::vector<std::byte>;

struct LaneOptions {
  unsigned lanes = 2;
  size_t queue_bytes = 4U << 20;      // waiting in each lane at most (one chunk always fits)
  uint64_t max_bytes_per_second = 0;  // of all lanes together; 0: no limit
  milliseconds stall = kStallLimit;
};

struct LaneCounters {
  uint64_t payload_bytes = 0;
  uint64_t wire_bytes = 0;  // with names, frame headers and TLS
  uint64_t chunks = 0;
  uint64_t queued_chunks = 0;  // all that send() has taken, on their way or not
};

// Where a chunk may travel.
enum class Route {
  kOrdered,  // a stream: everything of one name takes one lane, in the order in which it was sent
  kSpread,   // a file: whichever lane has room; the receiver goes by the offset
};

// Thread-safe. The first error of any lane is the error of every later call; the lanes are of no use then.
class LaneSender {
 public:
  // One TLS connection each, with a hello of purpose LANE. `session_remote`: Session::remote().
  static Result<std::unique_ptr<LaneSender>> connect(const Identity& identity, const PeerTarget& target,
                                                     const Endpoint& session_remote, const std::string& own_name,
                                                     const std::string& move_id, const std::string& lane_token,
                                                     const LaneOptions& options, Deadline deadline,
                                                     const Cancel& cancel);
  // Over streams whose hello is done; options.lanes is ignored.
  static Result<std::unique_ptr<LaneSender>> start(std::vector<std::unique_ptr<Stream>> streams,
                                                   const LaneOptions& options, const Cancel& cancel);
  // Abandons what was not flushed, joins.
  ~LaneSender();

  // Queues; waits while the queue is full (a lane that does not move for `stall` fails, and so does this). `name` must
  // be a plain name and `kind` not 0. More than 1 MiB is cut into several chunks. An empty one is sent too.
  Result<> send(uint8_t kind, std::string_view name, uint64_t offset, Buffer data, Route route);
  // A buffer of that size, used before if possible: fresh memory is many times slower. Content is undefined.
  Buffer take_buffer(size_t size);
  // Everything sent before this was consumed by the receiver's sink without error.
  Result<> flush(Deadline deadline);
  // The same, when the receiver has said in another way that it has all of it: saves the round trip.
  void all_consumed();
  // 0: no limit.
  void set_rate(uint64_t max_bytes_per_second);
  LaneCounters counters() const;

 private:
  struct State;
  explicit LaneSender(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

struct ChunkHeader {
  uint8_t kind = 0;
  std::string_view name;  // plain
  uint64_t offset = 0;
};
// Called on the lane's thread, one lane at a time each: with several lanes it must be thread-safe.
using ChunkSink = std::function<Result<>(const ChunkHeader&, std::span<const std::byte>)>;

struct LaneReceiveOptions {
  milliseconds stall = kStallLimit;   // inside a frame
  milliseconds idle{10 * 60 * 1000};  // between two frames
};

// Serves one lane (its hello is done) on the calling thread until the sender ends it. An error of the sink goes to the
// sender as an error frame and is returned.
Result<LaneCounters> receive_lane(Stream& stream, const ChunkSink& sink, const LaneReceiveOptions& options,
                                  const Cancel& cancel);

}  // namespace transship::wire
