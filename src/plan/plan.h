// The plan: from facts about a container and two hosts to one verdict per check, and what a move would cost. Pure: no
// I/O, no clock, the same input gives the same rows. docs/plan.md says why each check is judged the way it is.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/node_facts.h"
#include "base/task_findings.h"
#include "plan/predict.h"

namespace transship::plan {

enum class Verdict { kInvalid = 0, kOk = 1, kWarn = 2, kBlock = 3 };
std::string_view verdict_name(Verdict verdict);  // "ok", "warns", "blocks"

struct Row {
  std::string check;  // short and stable: "memory", "criu"
  Verdict verdict = Verdict::kInvalid;
  std::string found;   // what was seen
  std::string remedy;  // what to do; empty when ok
};

// What the engine knows of the container.
struct ContainerSide {
  struct Port {
    std::string host_ip;
    uint16_t host_port = 0;
    uint16_t container_port = 0;
    std::string protocol;
  };
  struct Mount {
    std::string type;  // "bind", "volume", "tmpfs", "image"
    std::string source;
    std::string destination;
    std::string volume;
    uint64_t bytes = 0;
    bool not_a_directory = false;           // a file, a socket or a device that is mounted
    std::vector<std::string> used_by = {};  // other containers that have it, too
  };
  std::string engine;  // "podman", "runc"
  std::string name;
  std::string state;        // the engine's word
  std::string runtime;      // "runc", "crun", a path
  std::string rootfs_kind;  // "overlay", "plain"; anything else blocks
  std::string upper_dir;    // empty with "overlay": the storage driver is another one
  std::string image;
  std::string image_digest;
  uint64_t image_bytes = 0;
  std::vector<std::string> addresses;
  std::vector<Port> host_ports;
  std::vector<Mount> mounts;
  std::string network_mode;
  std::string restart_policy;
  bool auto_remove = false;
  bool terminal = false;
  bool privileged = false;
  std::string pod;
  uint64_t memory_limit = 0;
};

// How this version of Transship calls CRIU; what the verdicts depend on. Keep in step with src/criu.
struct Abilities {
  bool file_locks = true;
  bool link_remap = false;      // and the root file system is sent after the dump, when the remapped links are in it
  bool terminal = false;        // shell jobs, orphan pty masters
  bool skip_in_flight = false;  // connections that are not accepted yet are dropped instead of failing the dump
  bool dev_shm = false;         // files in a /dev/shm that the engine mounts from the host (Podman) are copied by us
  bool published_ports_follow = false;  // cutover keeps connections that came through the old host's published ports
  uint64_t ghost_limit = 64ULL << 20;
};

struct Link {
  double rtt_ms = 0;
  double bits_per_second = 0;     // measured; 0: unknown
  double clock_offset_ms = 0;     // destination's clock minus ours
  uint32_t protocol_version = 0;  // agreed on; 0: not connected
  std::string error;              // why there is no connection; then everything about the destination is unknown
};

struct PlanInput {
  std::string peer;  // the destination's name
  ContainerSide container;
  TaskFindings tasks;
  Abilities abilities;
  uint64_t rootfs_bytes = 0;  // difference from the image (or the whole bundle)
  uint64_t rootfs_files = 0;
  uint64_t volume_bytes = 0;  // of volumes of which the destination has no copy yet
  uint64_t volume_files = 0;
  NodeFacts source;
  NodeFacts destination;
  Link link;
  bool image_present = false;        // on the destination
  uint64_t image_missing_bytes = 0;  // what would be sent or pulled; 0 with !image_present: all of image_bytes
  uint64_t max_bits_per_second = 0;  // asked for; 0: no limit
  MemoryMode memory_mode = MemoryMode::kInvalid;  // kInvalid: both hosts can only move memory in CRIU's images
  // The destination's own part: engine conflicts ("name", "host-port", "address", "network", …), CRIU's cpuinfo
  // ("cpu-features"). `destination_judged`: it was asked and answered; then what it has no row for is fine.
  bool destination_judged = false;
  std::vector<Row> destination_rows;
  // It gets an address of the destination's own, and these lead to it as before: "openstack:7379/tcp".
  bool new_address = false;
  std::vector<std::string> entries = {};
};

struct PlanResult {
  std::vector<Row> rows;  // in the order of docs/plan.md
  Prediction prediction;
  bool blocked = false;
};

PlanResult make_plan(const PlanInput& input);

// Only what the source can say by itself, and only what blocks: for `ps`. With no `tasks`, the engine's side.
std::vector<Row> source_objections(const ContainerSide& container, const TaskFindings* tasks, const NodeFacts& source,
                                   const Abilities& abilities = {});

// "memory: …; host-port: …": the rows that block, for a one-line error message; and what to do about them.
std::string blocking_text(const std::vector<Row>& rows);
std::string blocking_remedies(const std::vector<Row>& rows);
bool any_blocks(const std::vector<Row>& rows);

}  // namespace transship::plan
