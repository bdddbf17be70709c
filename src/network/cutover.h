// How traffic for a moved container gets to its new host. Drivers: "tunnel" leads it through the tunnel between the
// nodes (migrate/tunnel_cutover.h); "hook" runs the operator's command; "none" does nothing.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/cancel.h"
#include "base/result.h"
#include "network/placement.h"

namespace transship::network {

struct CutoverFacts {
  std::string move_id;
  std::string container;               // its name
  std::vector<std::string> addresses;  // the container's
  std::string source;                  // node names
  std::string source_address;          // underlay addresses of the hosts
  std::string destination;
  std::string destination_address;
  // Who it is wherever it goes: the node where its addresses are at home (fingerprint of its key), and its id there
  // when it left. identify() fills them in.
  std::string home = {};
  std::string home_id = {};
  std::vector<PublishedPort> ports = {};
  // On the destination: the engine that has it, and its id there.
  std::string engine = {};
  std::string engine_id = {};
  // It gets an address of the destination's own: `addresses` end with the move, nothing leads to it by them.
  bool new_address = false;
  std::vector<std::string> new_addresses = {};  // once they are known
};

// Thread-safe. Every call ends within the driver's deadline, and may come again with the same facts after a crash. What
// a driver has no use for succeeds.
class CutoverDriver {
 public:
  virtual ~CutoverDriver() = default;
  virtual std::string_view name() const = 0;

  // ---- source
  virtual void identify(CutoverFacts& /*facts*/) const {}
  // While it runs: what can be done ahead, and what would keep it from leaving. An error fails the move.
  virtual Result<> prepare_leave(const CutoverFacts& /*facts*/) { return {}; }
  // Undoes it; also when prepare_leave() failed or was never called.
  virtual void stay(const CutoverFacts& /*facts*/) {}
  // It runs there. The interface by which packets for it go on from here; nothing: the way to the destination's host.
  virtual Result<std::optional<std::string>> left(const CutoverFacts& /*facts*/) { return std::nullopt; }
  // What makes left() last: before the engine takes away what belonged to it.
  virtual void settled(const CutoverFacts& /*facts*/) {}
  // No late packet is passed on any more: what was only for those goes.
  virtual void gone(const CutoverFacts& /*facts*/) {}
  // Traffic goes to the source (again), also when the destination's commit() was never called or failed half way.
  virtual Result<> rollback(const CutoverFacts& facts) = 0;

  // ---- destination
  // Before anything of it is sent: how it would be reached here, in a sentence for the plan (may be empty). An error
  // refuses the move.
  virtual Result<std::string> judge_arrival(const CutoverFacts& /*facts*/) { return std::string(); }
  // Its network namespace (a path) is there, and nothing of it runs. An error fails the move.
  virtual Result<> prepare_arrival(const CutoverFacts& /*facts*/, const std::string& /*netns*/) { return {}; }
  // Its connections have passed this host all along, so connection tracking here knows them, with what it translates.
  virtual bool knows_connections(const CutoverFacts& /*facts*/) const { return false; }
  // It does not come.
  virtual void undo_arrival(const CutoverFacts& /*facts*/) {}
  // Traffic for the addresses goes to the destination from the return on.
  virtual Result<> commit(const CutoverFacts& facts) = 0;
  // It runs, and nobody waits for what is still to be done.
  virtual void arrived(const CutoverFacts& /*facts*/) {}
};

// Runs `command` (program and arguments) with these in its environment: TRANSSHIP_EVENT=commit|rollback,
// TRANSSHIP_MOVE_ID, TRANSSHIP_CONTAINER, TRANSSHIP_ADDRESSES (separated by spaces), TRANSSHIP_SOURCE,
// TRANSSHIP_SOURCE_ADDRESS, TRANSSHIP_DESTINATION, TRANSSHIP_DESTINATION_ADDRESS; TRANSSHIP_NEW_ADDRESSES only when it
// gets new ones (empty when it was rolled back before it had them). Exit code 0 is success. An empty
// command makes the driver "none". kInvalidArgument when the program does not exist or may not be run.
Result<std::unique_ptr<CutoverDriver>> make_cutover_driver(const std::vector<std::string>& command,
                                                           milliseconds limit = milliseconds(10'000));

}  // namespace transship::network
