// Accepts peers on the node's one TCP port.
//
// What a stranger can cost us is bounded: at most `max_handshakes` unfinished handshakes (and
// `max_handshakes_per_source` from one address), 5 s each, one thread and one TLS record buffer each. Beyond that
// connections are closed at once.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "wire/endpoint.h"
#include "wire/tls.h"

namespace transship::wire {

struct ListenerOptions {
  Endpoint address{"::", kDefaultPort};  // "::" is every address, IPv4 too; port 0: any free one
  unsigned max_connections = 256;        // authenticated ones
  unsigned max_handshakes = 32;
  unsigned max_handshakes_per_source = 16;
  milliseconds handshake_limit = kHandshakeLimit;
};

struct Accepted {
  TlsStream stream;
  std::string peer;  // by its pinned key
  Endpoint remote;
};
// Runs on the connection's own thread; the connection ends when it returns. `cancel` fires when the listener stops or
// the peer is dropped.
using ConnectionHandler = std::function<void(Accepted connection, const Cancel& cancel)>;

struct ListenerCounters {
  uint64_t accepted = 0;      // passed the handshake
  uint64_t unauthorized = 0;  // refused by their key, or without one
  uint64_t failed = 0;        // any other failed handshake
  uint64_t turned_away = 0;   // over a limit
  unsigned connections = 0;   // now
  unsigned handshakes = 0;    // now
};

// Thread-safe.
class Listener {
 public:
  static Result<std::unique_ptr<Listener>> start(const ListenerOptions& options, Identity identity, PinLookup pins,
                                                 ConnectionHandler handler);
  ~Listener();  // stop()
  // With the port that was really taken.
  const Endpoint& address() const;
  // Ends the connections of a peer (its key was unpinned).
  void drop_peer(const std::string& peer);
  // No new connections, ends the present ones, joins every thread. Not from a handler.
  void stop();
  ListenerCounters counters() const;

 private:
  struct State;
  explicit Listener(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace transship::wire
