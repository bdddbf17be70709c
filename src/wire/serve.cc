// The server's half of session.h.
#include <algorithm>

#include "base/text.h"
#include "base/wall_clock.h"
#include "wire/session.h"
#include "wire/session_kind.h"

namespace transship::wire {
namespace {

constexpr milliseconds kHelloLimit{10'000};
constexpr milliseconds kAnswerLimit = kStallLimit;
constexpr milliseconds kBandwidthLimit{120'000};
constexpr size_t kMaxPing = 64U << 10;
constexpr size_t kMaxToken = 128;

Result<> check_hello(const peer::Hello& hello) {
  if (hello.protocol_version_min() > hello.protocol_version() || hello.protocol_version() == 0)
    return fail(Errc::kPeerProtocol, "a hello with the protocol versions {} to {}", hello.protocol_version_min(),
                hello.protocol_version());
  if (hello.protocol_version() < kProtocolVersionMin || hello.protocol_version_min() > kProtocolVersion)
    return std::unexpected(
        Error(Errc::kRefused,
              fmt::format("the nodes have no protocol version in common: the one that calls speaks {} to "
                          "{}, the one that is called speaks {} to {} (transship {})",
                          hello.protocol_version_min(), hello.protocol_version(), kProtocolVersionMin, kProtocolVersion,
                          kProgramVersion))
            .with_remedy("install the same release of transship on both nodes"));
  if (!is_plain_name(hello.node())) return fail(Errc::kPeerProtocol, "a hello without a valid node name");
  if (hello.purpose() != peer::PURPOSE_CONTROL && hello.purpose() != peer::PURPOSE_LANE)
    return fail(Errc::kPeerProtocol, "a hello with the unknown purpose {}", static_cast<int>(hello.purpose()));
  if (hello.purpose() == peer::PURPOSE_LANE &&
      (!is_plain_name(hello.move_id()) || hello.lane_token().empty() || hello.lane_token().size() > kMaxToken))
    return fail(Errc::kPeerProtocol, "the hello of a lane without a valid move and token");
  return {};
}

peer::Reply answer_ping(const peer::PingRequest& ping) {
  peer::Reply reply;
  auto& pong = *reply.mutable_ping();
  pong.set_padding(ping.padding().substr(0, kMaxPing));
  pong.set_clock_unix_ms(unix_ms_now());
  return reply;
}

// The clock starts with the first byte of padding: what counts is the link, not when the sender got round to it.
Result<peer::Reply> answer_bandwidth(Stream& stream, uint64_t bytes, const Cancel& cancel) {
  if (bytes == 0 || bytes > kMaxBandwidthBytes)
    return fail(Errc::kPeerProtocol, "a bandwidth request for {} bytes; 1 to {} are allowed", bytes,
                kMaxBandwidthBytes);
  std::vector<std::byte> buffer(256U << 10);
  auto limit = Deadline::in(kBandwidthLimit);
  auto started = Clock::now();
  uint64_t first = 0;
  for (uint64_t have = 0; have < bytes;) {
    auto room = std::span(buffer).first(static_cast<size_t>(std::min<uint64_t>(bytes - have, buffer.size())));
    TS_TRY_ASSIGN(size_t n, stream.read_some(room, limit.sooner(Deadline::in(kStallLimit)), cancel));
    if (n == 0) return fail(Errc::kUnavailable, "{} ended a bandwidth measurement", stream.peer());
    if (have == 0) {
      started = Clock::now();
      first = n;
    }
    have += n;
  }
  // Scaled up by what had arrived before the clock was started.
  double us = std::chrono::duration<double, std::micro>(Clock::now() - started).count();
  if (first < bytes) us *= static_cast<double>(bytes) / static_cast<double>(bytes - first);
  peer::Reply reply;
  reply.mutable_bandwidth()->set_bytes(bytes);
  reply.mutable_bandwidth()->set_microseconds(std::max<uint64_t>(1, static_cast<uint64_t>(us)));
  return reply;
}

Result<peer::Reply> answer_to(Stream& stream, const peer::Request& request, const RequestHandler& handler,
                              const Cancel& cancel) {
  switch (request.kind_case()) {
    case peer::Request::kPing: return answer_ping(request.ping());
    case peer::Request::kBandwidth: return answer_bandwidth(stream, request.bandwidth().bytes(), cancel);
    case peer::Request::KIND_NOT_SET:
      return fail(Errc::kPeerProtocol, "this node (transship {}) does not know that request", kProgramVersion);
    default: return handler(request);
  }
}

}  // namespace

Result<peer::Hello> serve_hello(Stream& stream, const std::string& own_name, const Admit& admit, Deadline deadline,
                                const Cancel& cancel) {
  deadline = deadline.sooner(Deadline::in(kHelloLimit));
  TS_TRY_ASSIGN(peer::PeerMessage message, receive_message(stream, deadline, cancel));
  if (!message.has_hello()) return fail(Errc::kPeerProtocol, "{} does not begin with a hello", stream.peer());
  auto verdict = check_hello(message.hello());
  if (verdict && admit) verdict = admit(message.hello());
  peer::PeerMessage answer;
  if (!verdict) {
    *answer.mutable_failure() = to_failure(verdict.error());
    // The refusal is what matters, not whether the peer still hears of it.
    (void)send_message(stream, answer, deadline, cancel);
    stream.finish();
    return std::unexpected(std::move(verdict).error().context(stream.peer()));
  }
  auto& reply = *answer.mutable_hello_reply();
  reply.set_protocol_version(std::min(kProtocolVersion, message.hello().protocol_version()));
  reply.set_node(own_name);
  reply.set_program_version(kProgramVersion);
  TS_TRY(send_message(stream, answer, deadline, cancel));
  return std::move(*message.mutable_hello());
}

Result<> serve_requests(Stream& stream, const RequestHandler& handler, milliseconds idle, const Cancel& cancel) {
  while (true) {
    TS_TRY_ASSIGN(auto message, receive_message_or_end(stream, Deadline::in(idle), cancel));
    if (!message) return {};
    if (!message->has_request())
      return fail(Errc::kPeerProtocol, "{} sent something else than a request", stream.peer());
    const auto& request = message->request();
    auto reply = answer_to(stream, request, handler, cancel);
    // After this the stream's position is unknown.
    if (!reply && request.has_bandwidth()) return std::unexpected(std::move(reply).error());
    TS_CHECK(!reply || reply->has_failure() || reply->kind_case() == reply_kind(request.kind_case()),
             "the handler's reply to request {} is of another kind", static_cast<int>(request.kind_case()));
    peer::PeerMessage answer;
    if (reply) {
      *answer.mutable_reply() = std::move(*reply);
    } else {
      *answer.mutable_reply()->mutable_failure() = to_failure(reply.error());
    }
    TS_TRY(send_message(stream, answer, Deadline::in(kAnswerLimit), cancel));
  }
}

}  // namespace transship::wire
