#include "wire/message.h"

#include <algorithm>
#include <array>

#include "base/text.h"

namespace transship::wire {
namespace {

constexpr size_t kMaxErrorText = 4096;
constexpr Errc kAllCodes[] = {Errc::kInvalidArgument, Errc::kNotFound,     Errc::kAlreadyExists,
                              Errc::kRefused,         Errc::kNotConverged, Errc::kUnavailable,
                              Errc::kTimeout,         Errc::kCancelled,    Errc::kPeerProtocol,
                              Errc::kUnauthorized,    Errc::kNoSpace,      Errc::kKernelFeatureMissing,
                              Errc::kCorrupt,         Errc::kInternal};

// It goes to logs and terminals: no control characters but line ends (CRIU's own lines come with them).
std::string clean(const std::string& text) {
  std::string out = text.substr(0, kMaxErrorText);
  std::ranges::replace_if(out, [](unsigned char c) { return (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f; }, '?');
  return out;
}

// protobuf refuses invalid UTF-8 in strings, and file names may be any bytes.
std::string utf8(const std::string& text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    auto lead = static_cast<unsigned char>(text[i]);
    size_t length = lead < 0x80 ? 1 : lead >= 0xC2 && lead <= 0xDF ? 2 : (lead & 0xF0) == 0xE0 ? 3 : 0;
    bool ok = length != 0 && i + length <= text.size();
    for (size_t k = 1; ok && k < length; ++k) ok = (static_cast<unsigned char>(text[i + k]) & 0xC0) == 0x80;
    if (ok && length == 3) {
      auto second = static_cast<unsigned char>(text[i + 1]);
      ok = !(lead == 0xE0 && second < 0xA0) && !(lead == 0xED && second >= 0xA0);
    }
    if (!ok) length = 1;
    ok ? out.append(text, i, length) : out.append(1, '?');
    i += length;
  }
  return out;
}

Result<peer::PeerMessage> receive_rest(Stream& stream, std::span<const std::byte, 4> head, Deadline deadline,
                                       const Cancel& cancel) {
  uint32_t length = 0;
  for (std::byte b : head) length = length << 8 | std::to_integer<uint32_t>(b);
  if (length == 0 || length > kMaxMessageBytes)
    return fail(Errc::kPeerProtocol, "{} announces a message of {} bytes; 1 to {} are allowed", stream.peer(), length,
                kMaxMessageBytes);
  std::string body(length, '\0');
  TS_TRY(stream.read_exact(std::as_writable_bytes(std::span(body)), deadline, cancel));
  peer::PeerMessage message;
  if (!message.ParseFromString(body)) return fail(Errc::kPeerProtocol, "{} sent what is no message", stream.peer());
  if (message.kind_case() == peer::PeerMessage::KIND_NOT_SET)
    return fail(Errc::kPeerProtocol, "{} sent a message without a kind that we know", stream.peer());
  return message;
}

}  // namespace

Result<> send_message(Stream& stream, const peer::PeerMessage& message, Deadline deadline, const Cancel& cancel) {
  size_t length = message.ByteSizeLong();
  if (length == 0 || length > kMaxMessageBytes)
    return fail(Errc::kInvalidArgument, "a message of {} bytes for {}; 1 to {} are allowed", length, stream.peer(),
                kMaxMessageBytes);
  std::string bytes(4 + length, '\0');
  for (unsigned i = 0; i < 4; ++i) bytes[i] = static_cast<char>(length >> (24 - 8 * i) & 0xFF);
  // False when a required field is missing, which proto3 doesn't have.
  TS_CHECK(message.SerializeToArray(bytes.data() + 4, static_cast<int>(length)));
  return stream.write_all(std::as_bytes(std::span(bytes)), deadline, cancel);
}

Result<peer::PeerMessage> receive_message(Stream& stream, Deadline deadline, const Cancel& cancel) {
  std::array<std::byte, 4> head;
  TS_TRY(stream.read_exact(head, deadline, cancel));
  return receive_rest(stream, head, deadline, cancel);
}

Result<std::optional<peer::PeerMessage>> receive_message_or_end(Stream& stream, Deadline deadline,
                                                                const Cancel& cancel) {
  std::array<std::byte, 4> head;
  TS_TRY_ASSIGN(size_t n, stream.read_some(head, deadline, cancel));
  if (n == 0) return std::nullopt;
  // From its first byte on, a message has to come without a pause.
  deadline = deadline.sooner(Deadline::in(kStallLimit));
  if (n < head.size()) TS_TRY(stream.read_exact(std::span(head).subspan(n), deadline, cancel));
  TS_TRY_ASSIGN(auto message, receive_rest(stream, head, deadline, cancel));
  return message;
}

peer::Failure to_failure(const Error& error) {
  peer::Failure failure;
  failure.set_code(std::string(errc_name(error.code())));
  failure.set_message(utf8(error.message().substr(0, kMaxErrorText)));
  failure.set_remedy(utf8(error.remedy().substr(0, kMaxErrorText)));
  return failure;
}

Error to_error(const peer::Failure& failure) {
  Errc code = Errc::kUnavailable;
  for (Errc candidate : kAllCodes) {
    if (failure.code() == errc_name(candidate)) code = candidate;
  }
  std::string message = clean(failure.message());
  if (message.empty()) message = "failed without saying why";
  return Error(code, std::move(message)).with_remedy(clean(failure.remedy()));
}

}  // namespace transship::wire
