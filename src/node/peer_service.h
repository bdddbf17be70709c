// What peers ask of this node, over the listener's connections.
#pragma once
#include "migrate/move_table.h"
#include "migrate/services.h"
#include "wire/listener.h"

namespace transship::node {

// Thread-safe; one call of handle() per connection, on its own thread.
class PeerService {
 public:
  PeerService(migrate::Services& services, migrate::MoveTable& moves) : services_(services), moves_(moves) {}
  void handle(wire::Accepted connection, const Cancel& cancel);

 private:
  void serve_control(wire::Accepted& connection, const Cancel& cancel);
  void serve_lane(wire::Accepted& connection, const peer::Hello& hello, const Cancel& cancel);

  migrate::Services& services_;
  migrate::MoveTable& moves_;
};

}  // namespace transship::node
