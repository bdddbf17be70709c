// What one node is and has. Plain values: collected by sys/node_facts.h, sent between nodes, judged by plan/plan.h.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace transship {

struct NodeFacts {
  std::string node;
  std::string program_version;
  std::string kernel;        // uname -r
  std::string architecture;  // uname -m
  std::string criu_version;  // "4.2.1"; empty: not there
  std::string runc_version;  // "1.1.15"; empty: not there
  std::string cgroup_mode;   // "v2", "hybrid", "v1"
  uint64_t memory_total = 0;
  uint64_t memory_available = 0;
  uint64_t storage_total = 0;  // where containers are stored
  uint64_t storage_free = 0;
  uint64_t storage_free_inodes = 0;
  uint64_t images_free = 0;  // memory that CRIU's images may take
  double load_1m = 0;
  uint32_t cpus = 0;
  int64_t clock_unix_ms = 0;
  std::string vdso_digest;           // of its symbols' names and places; equal digests need no trampolines
  std::string memory_tracker;        // how writes are followed while it runs; "none: why" when they cannot be
  std::string memory_dump;           // how CRIU is kept from copying memory
  std::string dump_shortcuts;        // what makes CRIU's dump shorter, and why not the rest
  std::string arbiter;               // which register of decisions it uses; empty: none but its journal
  std::string arbiter_error;         // why that does not answer
  uint32_t arbiter_ms = 0;           // how long it took to answer
  std::vector<std::string> engines;  // "podman 5.4.2"; filled in by whoever has the engines
  std::vector<std::string> missing;  // what keeps this node from sending or receiving anything, a sentence each
};

}  // namespace transship
