// How traffic for a moved container gets to its new host. Drivers: "hook" runs the operator's command; "none" does
// nothing.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/cancel.h"
#include "base/result.h"

namespace transship::network {

struct CutoverFacts {
  std::string move_id;
  std::string container;               // its name
  std::vector<std::string> addresses;  // the container's
  std::string source;                  // node names
  std::string source_address;          // underlay addresses of the hosts
  std::string destination;
  std::string destination_address;
};

// Thread-safe. Both calls end within the driver's deadline, and may come again with the same facts after a crash.
class CutoverDriver {
 public:
  virtual ~CutoverDriver() = default;
  virtual std::string_view name() const = 0;
  // Traffic for the addresses goes to the destination from the return on.
  virtual Result<> commit(const CutoverFacts& facts) = 0;
  // Traffic goes to the source (again), also when commit() was never called or failed half way.
  virtual Result<> rollback(const CutoverFacts& facts) = 0;
};

// Runs `command` (program and arguments) with these in its environment: TRANSSHIP_EVENT=commit|rollback,
// TRANSSHIP_MOVE_ID, TRANSSHIP_CONTAINER, TRANSSHIP_ADDRESSES (separated by spaces), TRANSSHIP_SOURCE,
// TRANSSHIP_SOURCE_ADDRESS, TRANSSHIP_DESTINATION, TRANSSHIP_DESTINATION_ADDRESS. Exit code 0 is success. An empty
// command makes the driver "none". kInvalidArgument when the program does not exist or may not be run.
Result<std::unique_ptr<CutoverDriver>> make_cutover_driver(const std::vector<std::string>& command,
                                                           milliseconds limit = milliseconds(10'000));

}  // namespace transship::network
