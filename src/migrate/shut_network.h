// The network of a container that stands still on its source, shut by a table of ours. CRIU's own lock is not used:
// when CRIU notices that the daemon has died it opens the network, and the kernel would acknowledge what the frozen
// copy never passes on, or end connections that live on elsewhere.
#pragma once
#include <sys/types.h>

#include "base/result.h"
#include "sys/nft_table.h"

namespace transship::migrate {

// One thread. Keeps the network namespace alive. Destroyed, it stays shut: that is what a dead daemon would do.
class ShutNetwork {
 public:
  // Of the container of `pid`; shut already (by a daemon before this one) is fine. Some 0.1 ms. kRefused where that
  // would be the host's own network.
  static Result<ShutNetwork> shut(pid_t pid);
  // What an earlier daemon may have shut.
  static Result<> open_of(pid_t pid);
  // Idempotent. Also when the container is dead: its namespace may live on and be used again.
  Result<> open();

 private:
  explicit ShutNetwork(sys::NftSocket nft) : nft_(std::move(nft)) {}
  sys::NftSocket nft_;
};

}  // namespace transship::migrate
