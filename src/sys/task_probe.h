// The parts of inspect_tasks(): one look at one container. Only task_*.cc include this. One thread.
#pragma once
#include <sys/types.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "sys/proc_text.h"
#include "sys/task_tree.h"

namespace transship::sys {

struct TaskProbe {
  pid_t init = 0;
  std::set<pid_t> pids;  // the first process and its descendants
  TaskTreeOptions options;
  TaskFindings out;

  // Collected on the way, used by the later parts.
  std::map<pid_t, std::string> names;
  std::map<pid_t, pid_t> parents;
  std::map<pid_t, char> states;
  std::map<uint64_t, pid_t> sockets;                // inode -> one process that has it
  std::map<uint64_t, std::string> socket_protocol;  // inode -> "TCP", "UNIX-STREAM"…
  std::set<std::string> counted_files;              // "dev:inode" of ghosts and shared memory, so that each counts once
  uint64_t shared_object_bytes = 0;                 // that they hold
  std::set<int64_t> terminal_masters;
  std::vector<std::pair<pid_t, std::string>> terminal_slaves;

  std::string path(pid_t pid, std::string_view rest) const { return fmt::format("{}/{}/{}", options.proc, pid, rest); }
  void note(Trait trait, pid_t pid, std::string detail, uint64_t amount = 0);
  void unreadable(std::string sentence);
};

// Name, parent, state. False: it has ended.
bool probe_parent(TaskProbe& probe, pid_t pid);
// States of its threads, tracer, ELF class, namespaces.
void probe_process(TaskProbe& probe, pid_t pid);
void probe_descriptors(TaskProbe& probe, pid_t pid);
void probe_mappings(TaskProbe& probe, pid_t pid);
void probe_memory(TaskProbe& probe, pid_t pid);
// After all processes.
void finish_memory(TaskProbe& probe);
void probe_tmpfs(TaskProbe& probe);
void probe_sockets(TaskProbe& probe);

// The Trait of "anon_inode:…"; false when it moves.
bool anon_inode_trait(std::string_view link, Trait& trait);
// A descriptor's or mapping's target that is deleted. `through`: a path that leads to the very file.
void note_deleted(TaskProbe& probe, pid_t pid, const std::string& shown, const std::string& through);

std::string read_link(const std::string& path);
std::vector<std::string> list_dir(const std::string& path);

}  // namespace transship::sys
