// The bytes of a control session or of a lane's hello, as the server reads them.
#include "fuzz/input.h"
#include "fuzz/memory_stream.h"
#include "fuzz/target.h"
#include "wire/session.h"
#include "wire/session_kind.h"

namespace transship::fuzz {
namespace {

using namespace wire;

// A reply of the kind that the request asks for, or a failure.
Result<peer::Reply> answer(const peer::Request& request) {
  TS_CHECK(request.kind_case() != peer::Request::KIND_NOT_SET);
  peer::Reply reply;
  const auto* field = peer::Reply::descriptor()->FindFieldByNumber(static_cast<int>(reply_kind(request.kind_case())));
  TS_CHECK(field != nullptr, "request {} has no reply", static_cast<int>(request.kind_case()));
  if (request.has_abort()) return fail(Errc::kRefused, "{}", request.abort().reason());
  reply.GetReflection()->MutableMessage(&reply, field);
  return reply;
}

void run(std::string_view bytes) {
  Input in(bytes);
  auto how = in.byte();
  size_t step = in.byte();
  MemoryStream stream(in.rest(), step, (how & 1) != 0);
  auto admit = [&](const peer::Hello& hello) -> Result<> {
    TS_CHECK(hello.purpose() == peer::PURPOSE_CONTROL || !hello.lane_token().empty());
    if ((how & 2) != 0) return fail(Errc::kUnauthorized, "no such move: {}", hello.move_id());
    return {};
  };
  auto hello = serve_hello(stream, "azure", admit, soon(), never());
  if (hello && hello->purpose() == peer::PURPOSE_CONTROL)
    (void)serve_requests(stream, answer, milliseconds(1000), never());
  // All that was answered is messages.
  MemoryStream heard(stream.heard, 0, false);
  for (auto message = receive_message_or_end(heard, soon(), never()); message && *message;
       message = receive_message_or_end(heard, soon(), never())) {
    const auto& m = **message;
    TS_CHECK(m.has_hello_reply() || m.has_failure() || m.has_reply());
    if (m.reply().has_failure()) (void)to_error(m.reply().failure());
  }
}

std::string framed(const peer::PeerMessage& message) {
  MemoryStream stream("", 0, false);
  TS_CHECK(send_message(stream, message, soon(), never()));
  return stream.heard;
}

std::string hello(peer::Purpose purpose) {
  peer::PeerMessage m;
  m.mutable_hello()->set_protocol_version(kProtocolVersion);
  m.mutable_hello()->set_protocol_version_min(kProtocolVersionMin);
  m.mutable_hello()->set_node("aws");
  m.mutable_hello()->set_purpose(purpose);
  m.mutable_hello()->set_move_id("a1b2c3d4e5");
  m.mutable_hello()->set_lane_token("0123456789abcdef");
  return framed(m);
}

std::vector<std::string> seeds() {
  std::string all;
  const auto* requests = peer::Request::descriptor();
  for (int i = 0; i < requests->field_count(); ++i) {
    peer::PeerMessage m;
    if (requests->field(i)->number() == peer::Request::kBandwidth) continue;
    auto& request = *m.mutable_request();
    request.GetReflection()->MutableMessage(&request, requests->field(i));
    all += framed(m);
  }
  peer::PeerMessage bandwidth;
  bandwidth.mutable_request()->mutable_bandwidth()->set_bytes(10);
  peer::PeerMessage abort;
  abort.mutable_request()->mutable_abort()->set_reason("the operator \xc3\xa4\x1b called it off\n");
  std::string whole("\0\0", 2), cut("\1\3", 2), refused("\2\1", 2);
  auto control = hello(peer::PURPOSE_CONTROL);
  return {whole + control + all,
          cut + control + all,
          refused + control + all,
          whole + control + framed(bandwidth) + "0123456789" + framed(abort),
          whole + hello(peer::PURPOSE_LANE),
          whole + hello(peer::PURPOSE_INVALID)};
}

const Registration kRegistration({"control_session", run, seeds});

}  // namespace
}  // namespace transship::fuzz
