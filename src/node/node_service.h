// What `transship` asks of the daemon: gRPC on a UNIX socket that only root can open.
#pragma once
#include <memory>
#include <string>

#include "migrate/exposer.h"
#include "migrate/move_table.h"
#include "migrate/services.h"
#include "node/names_keeper.h"
#include "node/tunnel_keeper.h"
#include "wire/listener.h"

namespace transship::node {

// Serves until it is destroyed. Thread-safe.
class LocalServer {
 public:
  // `socket` is made anew (0600). kUnavailable when another daemon listens there.
  static Result<std::unique_ptr<LocalServer>> start(const std::string& socket, migrate::Services& services,
                                                    migrate::MoveTable& moves, TunnelKeeper& tunnel,
                                                    migrate::Placements& placements, migrate::Exposer& exposer,
                                                    NamesKeeper& names, wire::Listener& listener);
  virtual ~LocalServer() = default;
};

}  // namespace transship::node
