#include <array>
#include <vector>

#include "base/text.h"
#include "wire/lane_frame.h"
#include "wire/lanes.h"

namespace transship::wire {
namespace {

// How long a sender that was told of an error may take to stop sending.
constexpr milliseconds kDrainLimit{5'000};

class LaneReceiver {
 public:
  LaneReceiver(Stream& stream, const ChunkSink& sink, const LaneReceiveOptions& options, const Cancel& cancel)
      : stream_(stream), sink_(sink), options_(options), cancel_(cancel) {}

  Result<LaneCounters> run() {
    while (true) {
      TS_TRY_ASSIGN(bool more, read_header());
      if (!more) return counters_;
      auto r = consume();
      if (r) continue;
      if (own_) complain(r.error());
      return std::unexpected(std::move(r).error());
    }
  }

 private:
  // False at a proper end.
  Result<bool> read_header() {
    std::array<std::byte, kFrameHeaderBytes> head;
    TS_TRY_ASSIGN(size_t n, stream_.read_some(head, Deadline::in(options_.idle), cancel_));
    if (n == 0) return false;
    TS_TRY(stream_.read_steadily(std::span(head).subspan(n), options_.stall, cancel_));
    counters_.wire_bytes += head.size();
    auto header = decode_header(head);
    if (!header) {
      complain(header.error());
      return std::unexpected(std::move(header).error().context(stream_.peer()));
    }
    header_ = *header;
    return true;
  }

  Result<> consume() {
    own_ = false;
    if (header_.type == FrameType::kFlush) return acknowledge();
    if (header_.type != FrameType::kData) {
      own_ = true;
      return fail(Errc::kPeerProtocol, "{} sends a frame that only a receiver sends", stream_.peer());
    }
    name_.resize(header_.name_length);
    TS_TRY(stream_.read_steadily(std::as_writable_bytes(std::span(name_)), options_.stall, cancel_));
    if (!is_plain_name(name_)) {
      own_ = true;
      return fail(Errc::kPeerProtocol, "{} sends a chunk whose name is not allowed", stream_.peer());
    }
    if (payload_.size() < header_.length) payload_.resize(header_.length);
    auto payload = std::span(payload_).first(header_.length);
    TS_TRY(stream_.read_steadily(payload, options_.stall, cancel_));
    counters_.wire_bytes += name_.size() + payload.size();
    counters_.payload_bytes += payload.size();
    ++counters_.chunks;
    own_ = true;
    return sink_(ChunkHeader{header_.kind, name_, header_.offset}, payload);
  }

  Result<> acknowledge() {
    FrameHeader ack{.type = FrameType::kAck, .offset = header_.offset};
    return stream_.write_steadily(encode_header(ack), options_.stall, cancel_);
  }

  // Best effort. The sender may be in the middle of a write: what it still sends is read and dropped, because closing
  // with unread data would reset the connection and take our message with it.
  void complain(const Error& error) {
    std::string body = to_failure(error).SerializeAsString();
    FrameHeader header{.type = FrameType::kError, .length = static_cast<uint32_t>(body.size())};
    auto head = encode_header(header);
    std::string bytes(reinterpret_cast<const char*>(head.data()), head.size());
    bytes += body;
    if (!stream_.write_steadily(std::as_bytes(std::span(bytes)), options_.stall, cancel_)) return;
    stream_.finish();
    payload_.resize(64U << 10);
    auto limit = Deadline::in(kDrainLimit);
    while (!limit.passed()) {
      auto n = stream_.read_some(payload_, limit, cancel_);
      if (!n || *n == 0) return;
    }
  }

  Stream& stream_;
  const ChunkSink& sink_;
  const LaneReceiveOptions& options_;
  const Cancel& cancel_;
  FrameHeader header_;
  std::string name_;
  std::vector<std::byte> payload_;  // at most kMaxFramePayload
  LaneCounters counters_;
  bool own_ = false;  // the last error is ours, and the stream still in order
};

}  // namespace

Result<LaneCounters> receive_lane(Stream& stream, const ChunkSink& sink, const LaneReceiveOptions& options,
                                  const Cancel& cancel) {
  return LaneReceiver(stream, sink, options, cancel).run();
}

}  // namespace transship::wire
