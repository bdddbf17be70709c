// What the processes of a container use that cannot move, or may not. Reads /proc and asks the kernel about sockets;
// changes nothing, stops nobody.
#pragma once
#include <sys/types.h>

#include <string>
#include <vector>

#include "base/result.h"
#include "base/task_findings.h"

namespace transship::sys {

struct TaskTreeOptions {
  std::string proc = "/proc";
  size_t examples = 3;  // kept per trait
  // Ask the kernel what /proc does not tell (protocol of a socket, peers of UNIX sockets). Off for recorded trees.
  bool ask_kernel = true;
};

// `init`: the container's first process; `pids`: all of them (Cgroup::processes()), `init` may be among them. A process
// that ends meanwhile is skipped; when `init` is gone: kNotFound. As root; 7 ms per GiB of memory in small pages.
Result<TaskFindings> inspect_tasks(pid_t init, const std::vector<pid_t>& pids, const TaskTreeOptions& options = {});

}  // namespace transship::sys
