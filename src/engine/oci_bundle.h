// An OCI bundle's config.json: what Podman, Docker or a person gave the runtime. The part that a move needs.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "criu/dump_session.h"

namespace transship::engine {

struct OciMount {
  std::string destination;
  std::string type;
  std::string source;
  std::vector<std::string> options;
  bool is_bind() const;
};

struct OciNamespace {
  std::string type;  // "pid", "network", "ipc", "uts", "mount", "cgroup", "user", "time"
  std::string path;  // empty: one of its own
};

// A value: true when it was read.
struct OciBundle {
  std::string dir;
  std::string rootfs;  // absolute
  std::vector<OciMount> mounts;
  std::vector<std::string> masked_paths;
  std::vector<std::string> readonly_paths;
  std::vector<std::string> devices;  // paths in the container
  std::vector<OciNamespace> namespaces;
  std::map<std::string, std::string> annotations;
  std::string cgroups_path;
  std::string apparmor_profile;
  std::string selinux_label;
  std::vector<std::string> args;
  std::string cwd;
  uint64_t uid = 0;
  uint64_t gid = 0;
  std::vector<std::string> capabilities;  // the bounding set
  bool terminal = false;
  bool no_new_privileges = false;
  bool has_seccomp = false;

  const OciNamespace* find_namespace(std::string_view type) const;
  // A namespace made for this container alone.
  bool has_own(std::string_view type) const;
  // Shares the host's network: then nothing can keep its packets back.
  bool uses_host_network() const { return find_namespace("network") == nullptr; }
};

Result<OciBundle> load_oci_bundle(const std::string& dir);
// `dir` is only for resolving a relative root path.
Result<OciBundle> parse_oci_bundle(std::string_view config_json, const std::string& dir);

// Where `path` of the container is after following the symbolic links below `rootfs`, none of which can lead out of it.
// What does not exist is taken as it is written.
std::string resolve_in_root(const std::string& rootfs, std::string_view path);

// Names everything that CRIU must not put into the images the way runc names it on restore. `pid` is the container's
// first process. images_dir, work_dir and the program are left for the caller.
Result<criu::DumpOptions> dump_options(const OciBundle& bundle, pid_t pid);

// What descriptors.json must hold beside the images for runc: where standard input, output and error of `pid` lead.
Result<std::string> descriptors_json(pid_t pid);

}  // namespace transship::engine
