// Whole protobuf messages on a stream: a 32-bit big-endian length, then one PeerMessage.
#pragma once
#include <optional>

#include "base/result.h"
#include "proto/peer.pb.h"
#include "wire/stream.h"

namespace transship::wire {

inline constexpr uint32_t kMaxMessageBytes = 4U << 20;

// kInvalidArgument when it is longer than the limit.
Result<> send_message(Stream& stream, const peer::PeerMessage& message, Deadline deadline, const Cancel& cancel);
// kPeerProtocol for anything that is not exactly one message with a kind. An end of the stream is kUnavailable.
Result<peer::PeerMessage> receive_message(Stream& stream, Deadline deadline, const Cancel& cancel);
// Nothing when the peer ended the stream between two messages.
Result<std::optional<peer::PeerMessage>> receive_message_or_end(Stream& stream, Deadline deadline,
                                                                const Cancel& cancel);

peer::Failure to_failure(const Error& error);
// A code that we don't know is kUnavailable. Texts are cut to a sane length and cleaned of control characters.
Error to_error(const peer::Failure& failure);

}  // namespace transship::wire
