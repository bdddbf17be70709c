// The command line, parsed and checked as far as that goes without the daemon.
#pragma once
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "cli/entry_point.h"

namespace transship::cli {

enum class Command {
  kPs,
  kPlan,
  kMove,
  kMoves,
  kShow,
  kCancel,
  kResolve,
  kPeerAdd,
  kPeerLs,
  kPeerRm,
  kPeerCheck,
  kNetworkCheck,
  kNames,
  kNamesSetup,
  kNamesRemove,
  kExpose,
  kExposeLs,
  kExposeRm,
  kNodeInfo,
  kVersion,
};

struct Arguments {
  Command command = Command::kVersion;
  std::string socket;
  bool json = false;
  bool all = false;
  bool repair = false;
  std::string name;  // container, move or peer
  std::string to;
  bool keep_source = false;
  bool new_ip = false;
  bool detach = false;
  bool commit = false;  // else abort
  bool without_arbiter = false;
  bool yes = false;
  bool quiet = false;
  bool verbose = false;
  uint64_t max_bits_per_second = 0;  // 0: no limit
  std::string mode = "auto";
  std::string compress = "auto";
  uint32_t max_gap_ms = 0;  // 0: the daemon's default
  bool no_throttle = false;
  bool allow_post_copy = false;
  uint32_t limit = 20;
  std::string address;
  std::string fingerprint;
  std::string ssh;  // user@host
  std::string own_address;
  std::string remote_program = "transship";
  PortOfContainer container_port;
  EntryPoint entry;
  std::string health;  // path
};

// What to print instead of running a command: help (exit code 0) or what is wrong (2).
struct Stop {
  int exit_code = 0;
  std::string out;
  std::string err;
};

std::variant<Arguments, Stop> parse_arguments(const std::vector<std::string>& args);

// "100mbit", "1.5gbit", "800kbit", also with "/s".
Result<uint64_t> parse_bit_rate(const std::string& text);

}  // namespace transship::cli
