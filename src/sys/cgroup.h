// cgroup v2 of one container: freeze, thaw, members.
#pragma once
#include <sys/types.h>

#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/result.h"

namespace transship::sys {

class Cgroup {
 public:
  // The v2 cgroup that `pid` is in, as a path of this host (found below the cgroup2 mount).
  // kKernelFeatureMissing where no cgroup2 with a freezer is mounted.
  static Result<Cgroup> of_process(pid_t pid);
  static Result<Cgroup> at(std::string path);
  const std::string& path() const { return path_; }
  // Writes cgroup.freeze and waits until the kernel says that every task stands still.
  Result<> freeze(Deadline deadline) const;
  Result<> thaw(Deadline deadline) const;
  Result<bool> frozen() const;
  // Asks for nothing, only waits. A task that a tracer lets go counts as running until it has seen that its cgroup is
  // to be frozen, though it never gets to code of its own.
  Result<> await_frozen(Deadline deadline) const;
  Result<bool> populated() const;
  // All tasks of this cgroup and those below it (process ids).
  Result<std::vector<pid_t>> processes() const;
  Result<> kill_all() const;

 private:
  explicit Cgroup(std::string path) : path_(std::move(path)) {}
  Result<bool> event(std::string_view name) const;
  Result<> set_frozen(bool frozen, Deadline deadline) const;
  Result<> await(int events, bool frozen, Deadline deadline) const;
  std::string path_;
};

// Where cgroup2 is mounted on this host, as in /proc/self/mountinfo. kKernelFeatureMissing when nowhere.
Result<std::string> cgroup2_mount(const std::string& mountinfo = "/proc/self/mountinfo");

// Removes `path` ("/parent/name", as OCI's cgroupsPath has it) from each hierarchy that is mounted here. Where it has
// tasks, or others below it, it stays; so do paths of other kinds, which a service manager cares for. Tasks that are
// dying are waited for, until `deadline`.
void remove_empty_cgroup(const std::string& path, Deadline deadline,
                         const std::string& mountinfo = "/proc/self/mountinfo");

}  // namespace transship::sys
