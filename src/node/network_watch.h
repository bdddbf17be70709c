// Keeps in the kernel what is known of moved containers: engines remove bridges, wireguard-go may die and come back,
// administrators remove tables.
#pragma once
#include "base/thread.h"
#include "migrate/exposer.h"
#include "migrate/placements.h"
#include "migrate/tunnel_cutover.h"
#include "proto/local.pb.h"

namespace transship::node {

// What is known of moved containers here, and how the kernel differs from it; `repair` puts that right and looks again.
Result<local::NetworkCheckReply> check_network(migrate::Placements& placements, const migrate::Exposer& exposer,
                                               bool repair);

class NetworkWatch {
 public:
  // Brings it there before it returns; an error is logged. All outlive this object.
  NetworkWatch(migrate::Placements& placements, migrate::TunnelCutover& cutover, const migrate::TunnelPaths& paths);
  ~NetworkWatch();
  NetworkWatch(const NetworkWatch&) = delete;
  NetworkWatch& operator=(const NetworkWatch&) = delete;

 private:
  void run();
  void look();
  std::string interfaces() const;

  migrate::Placements& placements_;
  migrate::TunnelCutover& cutover_;
  const migrate::TunnelPaths& paths_;
  Cancel stop_;
  std::string last_error_;
  Thread thread_;
};

}  // namespace transship::node
