// The engines that own containers. Transship asks them, and never goes behind their back for what they can do.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/cancel.h"
#include "base/demands.h"
#include "base/result.h"

namespace transship::engine {

struct Address {
  std::string network;  // the engine's name of it
  std::string ip;       // without prefix length; IPv4 or IPv6
  unsigned prefix = 0;
  std::string mac;
  std::string interface;  // inside the container
  std::string gateway;
};

struct HostPort {
  std::string host_ip;  // empty: every address
  uint16_t host_port = 0;
  uint16_t container_port = 0;
  std::string protocol;  // "tcp", "udp", "sctp"
};

// What a host has in the place of a volume that is on its way there.
enum class CopyHere : uint8_t {
  kNone,     // nothing that a move has brought or left; what there is, is somebody's
  kSame,     // a copy that an earlier move left: what has changed since is enough
  kStale,    // one of an older state, or one that was not completed: everything is sent, in its place
  kChanged,  // one that was changed since it was left: it must not be overwritten
};

struct Mount {
  std::string type;         // "bind", "volume", "tmpfs", "image"
  std::string source;       // on the host
  std::string destination;  // in the container
  std::string volume;       // name, for "volume"
  bool writable = true;
  uint64_t bytes = 0;                     // of a volume, on disk; where somebody has measured it
  uint64_t files = 0;                     // likewise: names
  std::vector<std::string> used_by = {};  // other containers of this host that have it as well
  // Which volume it is, and since which move it is told what changes (migrate/volume_copies.h); empty: it is not.
  std::string copy_id = {};
  std::string copy_generation = {};
  // Of one that is on its way here. Not kNone: stage() takes what is there.
  CopyHere copy_here = CopyHere::kNone;
};

// One row of `ps`.
struct Summary {
  std::string engine;
  std::string id;
  std::string name;
  std::string image;
  std::string state;  // the engine's word: "running", "paused", "exited", "created"
  pid_t pid = 0;
};

// Everything a move needs to know about one container. A value: true when it was read, nothing more.
struct Container {
  std::string engine;  // "podman", "runc"
  std::string id;      // full
  std::string name;
  std::string state;
  pid_t pid = 0;          // of its first process, in the host's pid namespace; 0 when not running
  std::string bundle;     // directory with the config.json that the OCI runtime got
  std::string runtime;    // "runc", "crun", path
  std::string rootfs;     // as mounted now
  std::string upper_dir;  // difference from the image; empty where the engine has no overlay (see `rootfs_kind`)
  // "overlay"; "plain" = a directory that is the whole root (runc bundles); else the storage driver's name, or "rootfs"
  // (podman --rootfs), which cannot move.
  std::string rootfs_kind;
  std::string image;                      // as the user named it; empty for runc bundles
  std::string image_id;                   // digest of its configuration, "sha256:…" or bare hex as the engine has it
  std::string image_digest;               // digest of its manifest
  std::vector<std::string> image_layers;  // diff ids, lowest first
  uint64_t image_bytes = 0;
  std::vector<Address> addresses;
  std::vector<HostPort> host_ports;
  std::vector<Mount> mounts;               // what the user asked for; not the engine's own (/etc/hosts, /dev/shm…)
  std::vector<std::string> managed_files;  // the engine's own bind mounts: destinations that each engine makes anew
  std::string network_mode;                // "bridge", "host", "none", "container:ID", …
  std::string restart_policy;              // "no", "always", "on-failure:3", "unless-stopped"
  bool auto_remove = false;
  bool terminal = false;
  bool privileged = false;
  std::string pod;            // id when in a pod
  uint64_t memory_limit = 0;  // bytes, 0: none
  // Asked for with a move: made elsewhere it gets an address of that host's own, and `addresses` are what it had.
  bool new_address = false;
  // On its way: the move that creates it here. stage() marks with it what it makes.
  std::string arrival;
  std::string cgroup_parent;
  // What the same kind of engine on another node needs to create the same container: the engine's own JSON, opaque to
  // everyone else. Contains environment values: never logged.
  std::string spec;
};

// Whether it is data that travels with its container.
inline bool is_volume(const Mount& m) { return m.type == "volume" || m.type == "bind"; }

// One of a container that is on its way here: empty, and nobody's yet.
struct StagedVolume {
  std::string destination;  // in the container
  std::string path;         // of its directory on this host
};

// A container that exists on the destination and has not been started.
struct Staged {
  std::string id;
  std::string upper_dir;  // where the root file system difference goes ("overlay")
  std::string rootfs;     // where the whole root goes ("plain")
  std::string rootfs_kind;
  std::vector<StagedVolume> volumes;
};

// What stands in the way of creating `Container` here; one row each. The plan turns them into verdicts.
struct Conflict {
  // "name", "host-port", "network", "address", "runtime", "storage-driver", "mounts", "pod", "dependency", "namespace",
  // "secret", "file", "systemd-unit", "log-driver"
  std::string check;
  std::string found;
  std::string remedy;
};

// May an image be pulled from this registry ("registry.example:5000")?
using RegistryFilter = std::function<bool(const std::string& registry)>;

// Thread-safe: every call is a request of its own to the engine. Every call ends within its deadline (30 s where no
// deadline is a parameter). Errors: kNotFound (no such container), kUnavailable (engine not there: says which socket or
// program, and how to start it), kTimeout.
class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::string_view name() const = 0;
  // "podman 5.4.2"; fails when the engine is not usable.
  virtual Result<std::string> version() = 0;
  // Asks now for what is remembered and takes long: once after the start. May be called beside everything else.
  virtual void warm_up() {}
  // Running ones, or all.
  virtual Result<std::vector<Summary>> list(bool all) = 0;
  // By name or id (unambiguous prefix is fine where the engine takes it).
  virtual Result<Container> inspect(const std::string& name) = 0;
  // What inspect() says of its addresses; cheaper where that costs much.
  virtual Result<std::vector<Address>> addresses(const std::string& id) {
    TS_TRY_ASSIGN(auto container, inspect(id));
    return std::move(container.addresses);
  }
  // Calls `changed` with an id each time a container may have come, gone or changed its name or network (empty: any of
  // them), until `cancel` fires or the engine ends it. kUnavailable at once: this engine tells nobody.
  virtual Result<> watch(const std::function<void(const std::string& id)>& /*changed*/, const Cancel& /*cancel*/) {
    return fail(Errc::kUnavailable, "{} does not tell of changes", name());
  }

  // ---- source
  // From here on the engine does not start it again by itself when its tasks end. Returns what release_restarts needs.
  virtual Result<std::string> hold_restarts(const std::string& id) = 0;
  // What hold_restarts() would return; changes nothing.
  virtual Result<std::string> restarts(const std::string& id) = 0;
  virtual Result<> release_restarts(const std::string& id, const std::string& held) = 0;
  // After the commit: its tasks are dead. Waits until the engine has noticed, then removes it with everything that
  // belongs to it alone; with `keep` it stays, stopped, and never restarts by itself. Idempotent.
  virtual Result<> forget(const std::string& id, bool keep, Deadline deadline) = 0;

  // ---- destination
  virtual Result<std::vector<Conflict>> conflicts(const Container& wanted) = 0;
  // What making it would take of this host, by the very request that stage() would make. A peer wrote it: nothing in it
  // is left out, what is not known is in `never`, and stage() refuses that too.
  virtual Result<Demands> demands(const Container& wanted) = 0;
  // Is the image here (by configuration digest)? Then nothing needs to be pulled.
  virtual Result<bool> has_image(const Container& wanted) = 0;
  // Pulls by digest from the registries in its names that are `allowed`. kNotFound/kUnavailable when none can serve it.
  virtual Result<> pull_image(const Container& wanted, const RegistryFilter& allowed, Deadline deadline,
                              const Cancel& cancel) = 0;
  // Gives an image that is there the name that the user knows it by; one that is taken stays with its image.
  virtual Result<> name_image(const Container& wanted) = 0;
  // Creates it: same name, image, environment, mounts, ports, labels, limits, address (unless it is to get a new one);
  // runtime transship; no restart policy yet (see finish). Nothing runs. Its volumes are made, and empty: one that is
  // there already is kAlreadyExists. On failure nothing is left.
  virtual Result<Staged> stage(const Container& wanted, Deadline deadline, const Cancel& cancel) = 0;
  // What a stage() of this arrival made, its volumes included; never anything else that has their names, nor a
  // container that has been started. Idempotent.
  virtual Result<> discard_arrival(const Container& wanted, Deadline deadline) = 0;
  // Where the OCI runtime keeps it is the engine's matter; returns when the engine's start is through, which is when
  // the gate has answered. Holds the engine's lock of that container: the gate's deadline bounds it.
  virtual Result<> start(const std::string& id, Deadline deadline) = 0;
  // After the commit: restart policy as it was on the source; its volumes are its own from here on.
  virtual Result<> finish(const std::string& id, const Container& wanted) = 0;
  // Kills and removes it, whatever its state; gone already is fine.
  virtual Result<> discard(const std::string& id, Deadline deadline) = 0;
};

// A service of our own, started from `program` with its socket below `run_dir` and ended with the engine object,
// answers every call: Podman's API has no other way to choose an OCI runtime. `socket` is the host's own service, asked
// only where ours can't be started (then nothing can move here).
struct PodmanOptions {
  std::string socket = "/run/podman/podman.sock";
  std::string program = "podman";
  std::string run_dir = "/run/transship";
  // What containers that moved here run under: a name of [engine.runtimes] in the host's containers.conf, because the
  // user's own podman commands must find it too.
  std::string runtime = "transship";
  // What that runtime passes calls on to, and where it keeps its containers.
  std::string runc = "runc";
  std::string runc_root = "/run/runc";
};
Result<std::unique_ptr<Engine>> make_podman_engine(const PodmanOptions& options);

// What a network namespace (a path) has: everything but loopback and link-local ones.
Result<std::vector<Address>> addresses_in(const std::string& netns);

// Plain bundles. `root`: runc's state directory. Bundles that arrive are put below `bundles_dir`.
struct RuncOptions {
  std::string program = "runc";
  std::string root = "/run/runc";
  std::string bundles_dir = "/var/lib/transship/bundles";
  std::string runtime = "/usr/bin/transship-runtime";
};
Result<std::unique_ptr<Engine>> make_runc_engine(const RuncOptions& options);

}  // namespace transship::engine
