// What every move on this node shares. Built by hand in node/main.cc, in order; outlives all moves.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "arbiter/arbiter.h"
#include "base/cancel.h"
#include "base/node_facts.h"
#include "criu/memory_method.h"
#include "engine/engine.h"
#include "migrate/arrival_policy.h"
#include "migrate/passing.h"
#include "migrate/unrecorded.h"
#include "network/cutover.h"
#include "plan/reservations.h"
#include "state/store.h"
#include "wire/session.h"

namespace transship::migrate {

class EntryHandover;

// Immutable after start.
struct Settings {
  std::string node;
  std::string program_version;
  std::string run_dir = "/run/transship";
  std::string state_dir = "/var/lib/transship";
  std::string storage_path = "/var/lib/containers";
  std::string criu = "criu";
  std::string runc = "runc";
  std::string runtime = "/usr/bin/transship-runtime";
  unsigned lanes = 2;
  uint64_t max_bits_per_second = 0;
  milliseconds gate_deadline{5000};
  milliseconds reservation_ttl{30'000};
  uint64_t memory_margin = 64U << 20;
  uint64_t hold_bytes = 64U << 20;
  milliseconds hold_grace{3000};
  // How CRIU is kept from copying memory; kFull: it cannot be, and memory moves in its images.
  criu::MethodFinding memory_method;
  std::string criu_preload;    // libtransship-criu.so; empty: not installed
  std::string dump_shortcuts;  // which of criu/shortcuts.h are in force, and why not the others
};

class MovingListener;

struct Services {
  Settings settings;
  wire::Identity identity;
  std::unique_ptr<state::Store> store;
  std::vector<std::unique_ptr<engine::Engine>> engines;
  std::unique_ptr<network::CutoverDriver> cutover;
  std::unique_ptr<arbiter::Arbiter> arbiter{};  // null: the source's journal decides
  plan::ReservationBook reservations{};
  Passing passing{};
  PolicyBook policy{};
  Unrecorded unrecorded{};
  EntryHandover* entries = nullptr;  // set once, before the first move
  MovingListener* moving = nullptr;  // set before anything moves; may stay null

  // kNotFound names the engines there are.
  Result<engine::Engine*> engine(std::string_view name) const;
  // The pinned peer as something to connect to. kNotFound names the ones there are.
  Result<wire::PeerTarget> peer(const std::string& name) const;
  // This node as a plan and a peer see it: engines filled in, reservations taken off.
  Result<NodeFacts> node_facts() const;
};

}  // namespace transship::migrate
