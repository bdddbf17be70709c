// Sessions between two nodes: hello, then requests and replies, one at a time (docs/protocol.md).
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "wire/endpoint.h"
#include "wire/message.h"
#include "wire/tls.h"

namespace transship::wire {

inline constexpr uint32_t kProtocolVersion = 1;
// Always the one before as well, once there is one.
inline constexpr uint32_t kProtocolVersionMin = 1;
inline constexpr uint64_t kMaxBandwidthBytes = 256U << 20;
extern const char* const kProgramVersion;

struct PeerTarget {
  std::string name;  // as this node calls it
  Endpoint address;
  Fingerprint fingerprint;
};

// What the other node said of itself.
struct PeerVersions {
  uint32_t protocol = 0;
  std::string node;
  std::string program;
};

// ---- client

// The hello of a connection that exists; `hello`'s versions and node are filled in here.
Result<PeerVersions> say_hello(Stream& stream, const std::string& own_name, peer::Hello hello, Deadline deadline,
                               const Cancel& cancel);

// One thread at a time. After a call that failed other than by the peer's own answer the session is broken: later calls
// fail with that same error.
class Session {
 public:
  // A TCP connection, TLS, hello (CONTROL). `own_name`: of this node, for the other one's messages.
  static Result<std::unique_ptr<Session>> connect(const Identity& identity, const PeerTarget& target,
                                                  const std::string& own_name, Deadline deadline, const Cancel& cancel);
  // Over a stream that exists (tests).
  static Result<std::unique_ptr<Session>> over(std::unique_ptr<Stream> stream, const std::string& own_name,
                                               Deadline deadline, const Cancel& cancel);
  ~Session();

  // A Failure of the peer becomes an Error with its code and remedy; the session goes on. A reply of another kind than
  // the request asks for is kPeerProtocol.
  Result<peer::Reply> call(const peer::Request& request, Deadline deadline, const Cancel& cancel);
  // The quickest of `count` pings.
  Result<std::chrono::microseconds> round_trip(unsigned count, Deadline deadline, const Cancel& cancel);
  // Sends `bytes` and asks how long they took to arrive: bits per second, payload.
  Result<double> measure_bandwidth(uint64_t bytes, Deadline deadline, const Cancel& cancel);

  const PeerVersions& versions() const { return versions_; }
  // Numeric: where this session really goes, for the lanes of the same move. Requires: made by connect().
  const Endpoint& remote() const { return remote_; }
  const Endpoint& local() const { return local_; }
  bool broken() const { return broken_ != nullptr; }

 private:
  Session() = default;
  Result<peer::Reply> exchange(const peer::Request& request, Deadline deadline, const Cancel& cancel);
  std::unique_ptr<Stream> stream_;
  PeerVersions versions_;
  Endpoint remote_;
  Endpoint local_;
  std::unique_ptr<Error> broken_;
};

// ---- server

// Reads the Hello and answers it. `admit` (may be empty) is asked after the versions agreed: its error goes to the peer
// as a Failure and is returned. Lanes: move_id is a plain name and lane_token not empty when `admit` sees them.
using Admit = std::function<Result<>(const peer::Hello&)>;
Result<peer::Hello> serve_hello(Stream& stream, const std::string& own_name, const Admit& admit, Deadline deadline,
                                const Cancel& cancel);

// Answers requests until the peer ends the session (success), it breaks, or nothing comes for `idle`. Ping and
// bandwidth are answered here; everything else goes to `handler`, whose error becomes a Failure.
using RequestHandler = std::function<Result<peer::Reply>(const peer::Request&)>;
Result<> serve_requests(Stream& stream, const RequestHandler& handler, milliseconds idle, const Cancel& cancel);

}  // namespace transship::wire
