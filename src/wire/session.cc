#include "wire/session.h"

#include "base/text.h"
#include "wire/session_kind.h"

namespace transship::wire {
namespace {

// Answers to hellos, pings and other small things come from memory.
constexpr milliseconds kHelloLimit{10'000};
constexpr size_t kPaddingChunk = 256U << 10;

PeerVersions versions_of(const peer::HelloReply& reply) {
  return {reply.protocol_version(), reply.node(), reply.program_version()};
}

std::string described(const PeerTarget& target) { return fmt::format("{} ({})", target.name, to_text(target.address)); }

}  // namespace

const char* const kProgramVersion = TRANSSHIP_VERSION;

Result<PeerVersions> say_hello(Stream& stream, const std::string& own_name, peer::Hello hello, Deadline deadline,
                               const Cancel& cancel) {
  deadline = deadline.sooner(Deadline::in(kHelloLimit));
  hello.set_protocol_version(kProtocolVersion);
  hello.set_protocol_version_min(kProtocolVersionMin);
  hello.set_node(own_name);
  peer::PeerMessage message;
  *message.mutable_hello() = std::move(hello);
  TS_TRY(send_message(stream, message, deadline, cancel));
  TS_TRY_ASSIGN(peer::PeerMessage answer, receive_message(stream, deadline, cancel));
  if (answer.has_failure()) return std::unexpected(to_error(answer.failure()).context(stream.peer()));
  if (!answer.has_hello_reply()) return fail(Errc::kPeerProtocol, "{} does not answer a hello with one", stream.peer());
  const auto& reply = answer.hello_reply();
  if (reply.protocol_version() < kProtocolVersionMin || reply.protocol_version() > kProtocolVersion)
    return fail(Errc::kPeerProtocol, "{} chose protocol {}, which we did not offer", stream.peer(),
                reply.protocol_version());
  return versions_of(reply);
}

Session::~Session() {
  if (stream_ && !broken_) stream_->finish();
}

Result<std::unique_ptr<Session>> Session::over(std::unique_ptr<Stream> stream, const std::string& own_name,
                                               Deadline deadline, const Cancel& cancel) {
  std::unique_ptr<Session> session(new Session());
  peer::Hello hello;
  hello.set_purpose(peer::PURPOSE_CONTROL);
  TS_TRY_ASSIGN(session->versions_, say_hello(*stream, own_name, std::move(hello), deadline, cancel));
  session->stream_ = std::move(stream);
  return session;
}

Result<std::unique_ptr<Session>> Session::connect(const Identity& identity, const PeerTarget& target,
                                                  const std::string& own_name, Deadline deadline,
                                                  const Cancel& cancel) {
  TS_TRY_ASSIGN(Fd tcp, connect_tcp(target.address, deadline, cancel));
  TS_TRY_ASSIGN(Endpoint remote, remote_endpoint(tcp.get()));
  TS_TRY_ASSIGN(Endpoint local, local_endpoint(tcp.get()));
  TS_TRY_ASSIGN(TlsStream tls,
                TlsStream::client(std::move(tcp), identity, target.fingerprint, described(target), deadline, cancel));
  TS_TRY_ASSIGN(auto session, over(std::make_unique<TlsStream>(std::move(tls)), own_name, deadline, cancel));
  session->remote_ = std::move(remote);
  session->local_ = std::move(local);
  return session;
}

Result<peer::Reply> Session::exchange(const peer::Request& request, Deadline deadline, const Cancel& cancel) {
  peer::PeerMessage message;
  *message.mutable_request() = request;
  TS_TRY(send_message(*stream_, message, deadline, cancel));
  TS_TRY_ASSIGN(peer::PeerMessage answer, receive_message(*stream_, deadline, cancel));
  if (!answer.has_reply())
    return fail(Errc::kPeerProtocol, "{} does not answer a request with a reply", stream_->peer());
  auto kind = answer.reply().kind_case();
  if (kind != peer::Reply::kFailure && kind != reply_kind(request.kind_case()))
    return fail(Errc::kPeerProtocol, "{} answers with a reply of another kind ({} to request {})", stream_->peer(),
                static_cast<int>(kind), static_cast<int>(request.kind_case()));
  return std::move(*answer.mutable_reply());
}

Result<peer::Reply> Session::call(const peer::Request& request, Deadline deadline, const Cancel& cancel) {
  if (broken_) return std::unexpected(*broken_);
  auto reply = exchange(request, deadline, cancel);
  if (!reply) {
    broken_ = std::make_unique<Error>(reply.error());
    stream_->shutdown();
    return reply;
  }
  if (reply->has_failure()) return std::unexpected(to_error(reply->failure()).context(stream_->peer()));
  return reply;
}

Result<std::chrono::microseconds> Session::round_trip(unsigned count, Deadline deadline, const Cancel& cancel) {
  TS_CHECK(count > 0);
  auto best = std::chrono::microseconds::max();
  for (unsigned i = 0; i < count; ++i) {
    peer::Request request;
    request.mutable_ping();
    auto start = Clock::now();
    TS_TRY(call(request, deadline, cancel));
    best = std::min(best, std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start));
  }
  return best;
}

Result<double> Session::measure_bandwidth(uint64_t bytes, Deadline deadline, const Cancel& cancel) {
  TS_CHECK(bytes > 0 && bytes <= kMaxBandwidthBytes);
  if (broken_) return std::unexpected(*broken_);
  peer::PeerMessage message;
  message.mutable_request()->mutable_bandwidth()->set_bytes(bytes);
  auto measure = [&]() -> Result<double> {
    TS_TRY(send_message(*stream_, message, deadline, cancel));
    const std::vector<std::byte> padding(kPaddingChunk);
    for (uint64_t left = bytes; left > 0;) {
      auto part = std::span(padding).first(static_cast<size_t>(std::min<uint64_t>(left, padding.size())));
      TS_TRY(stream_->write_all(part, deadline, cancel));
      left -= part.size();
    }
    TS_TRY_ASSIGN(peer::PeerMessage answer, receive_message(*stream_, deadline, cancel));
    if (answer.reply().has_failure()) return std::unexpected(to_error(answer.reply().failure()));
    const auto& reply = answer.reply().bandwidth();
    if (!answer.reply().has_bandwidth() || reply.bytes() != bytes || reply.microseconds() == 0)
      return fail(Errc::kPeerProtocol, "{} does not answer a bandwidth request with a measurement", stream_->peer());
    return static_cast<double>(bytes) * 8e6 / static_cast<double>(reply.microseconds());
  };
  auto result = measure();
  // Also after a refusal: the padding may be anywhere on its way.
  if (!result) {
    broken_ = std::make_unique<Error>(result.error());
    stream_->shutdown();
  }
  return result;
}

}  // namespace transship::wire
