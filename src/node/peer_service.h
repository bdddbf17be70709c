// What peers ask of this node, over the listener's connections.
#pragma once
#include "migrate/exposer.h"
#include "migrate/move_table.h"
#include "migrate/services.h"
#include "migrate/tunnel_cutover.h"
#include "node/names_keeper.h"
#include "node/tunnel_keeper.h"
#include "wire/listener.h"

namespace transship::node {

// Thread-safe; one call of handle() per connection, on its own thread.
class PeerService {
 public:
  PeerService(migrate::Services& services, migrate::MoveTable& moves, TunnelKeeper& tunnel,
              migrate::TunnelCutover& cutover, migrate::Exposer& exposer, NamesKeeper& names)
      : services_(services), moves_(moves), tunnel_(tunnel), cutover_(cutover), exposer_(exposer), names_(names) {}
  void handle(wire::Accepted connection, const Cancel& cancel);

 private:
  void serve_control(wire::Accepted& connection, const Cancel& cancel);
  void serve_lane(wire::Accepted& connection, const peer::Hello& hello, const Cancel& cancel);

  migrate::Services& services_;
  migrate::MoveTable& moves_;
  TunnelKeeper& tunnel_;
  migrate::TunnelCutover& cutover_;
  migrate::Exposer& exposer_;
  NamesKeeper& names_;
};

}  // namespace transship::node
