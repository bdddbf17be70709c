#include "sys/task_tree.h"

#include <elf.h>
#include <unistd.h>

#include <filesystem>

#include "base/fd.h"
#include "base/text.h"
#include "sys/file.h"
#include "sys/task_probe.h"

namespace transship::sys {

void TaskProbe::note(Trait trait, pid_t pid, std::string detail, uint64_t amount) {
  Seen& seen = out.seen[trait];
  ++seen.count;
  seen.amount += amount;
  seen.largest = std::max(seen.largest, amount);
  // Which of the host's namespaces it shares is judged one by one: all are kept (there are five).
  if (seen.examples.size() >= options.examples && trait != Trait::kHostNamespace) return;
  for (const auto& e : seen.examples)
    if (e.pid == pid && e.detail == detail) return;
  seen.examples.push_back({pid, names[pid], std::move(detail)});
}

void TaskProbe::unreadable(std::string sentence) {
  // One sentence for a cause, not one per process.
  constexpr size_t kMost = 8;
  if (out.unreadable.size() < kMost) out.unreadable.push_back(std::move(sentence));
}

std::string read_link(const std::string& path) {
  std::string target(4096, '\0');
  ssize_t n = ::readlink(path.c_str(), target.data(), target.size());
  target.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return target;
}

std::vector<std::string> list_dir(const std::string& path) {
  std::vector<std::string> names;
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(path, error); !error && it != end(it); it.increment(error))
    names.push_back(it->path().filename().string());
  return names;
}

namespace {

// CRIU restores none of these for a process inside a container (it dumps some of them, and then fails, or forgets
// them).
constexpr const char* kNamespaces[] = {"pid", "mnt", "net", "user", "ipc", "uts", "cgroup"};

void probe_namespaces(TaskProbe& probe, pid_t pid) {
  for (const char* kind : kNamespaces) {
    std::string mine = read_link(probe.path(pid, fmt::format("ns/{}", kind)));
    std::string of_init = read_link(probe.path(probe.init, fmt::format("ns/{}", kind)));
    if (!mine.empty() && !of_init.empty() && mine != of_init) probe.note(Trait::kNestedNamespace, pid, kind);
  }
}

void probe_threads(TaskProbe& probe, pid_t pid, char leader_state) {
  auto tids = list_dir(probe.path(pid, "task"));
  uint32_t stopped = 0;
  uint32_t others = 0;
  for (const auto& tid : tids) {
    auto text = read_file(probe.path(pid, fmt::format("task/{}/status", tid)), 1U << 16);
    if (!text) continue;
    auto fields = parse_fields(*text);
    const std::string& state = fields["State"];
    if (state.empty() || state[0] == 'Z' || state[0] == 'X') continue;
    state[0] == 'T' ? ++stopped : ++others;
    if (auto tracer = leading_number(fields["TracerPid"]); tracer != 0)
      probe.note(Trait::kDebugger, pid, fmt::format("thread {} is traced by process {}", tid, tracer));
  }
  probe.out.threads += stopped + others;
  if (stopped > 0 && others > 0)
    probe.note(Trait::kStoppedThread, pid, fmt::format("{} of {} threads are stopped", stopped, stopped + others));
  if (leader_state == 'Z' && stopped + others > 0)
    probe.note(Trait::kZombieLeader, pid, fmt::format("{} threads go on", stopped + others));
}

void probe_elf_class(TaskProbe& probe, pid_t pid) {
  auto fd = open_file(probe.path(pid, "exe"), O_RDONLY);
  if (!fd) return;  // zombies have none
  std::byte ident[EI_NIDENT];
  if (!read_exact(fd->get(), ident)) return;
  if (static_cast<unsigned char>(ident[EI_CLASS]) == ELFCLASS32) probe.note(Trait::k32Bit, pid, "a 32-bit program");
}

void probe_host_namespaces(TaskProbe& probe) {
  for (const char* kind : {"pid", "mnt", "net", "ipc", "uts"}) {
    std::string theirs = read_link(probe.path(probe.init, fmt::format("ns/{}", kind)));
    std::string ours = read_link(fmt::format("{}/self/ns/{}", probe.options.proc, kind));
    if (!theirs.empty() && theirs == ours) probe.note(Trait::kHostNamespace, probe.init, kind);
  }
}

// Processes whose line of parents does not lead to the first process were put into the container from outside. They are
// not part of what is dumped, so nothing else about them matters.
void leave_out_sessions(TaskProbe& probe) {
  std::vector<pid_t> outside;
  for (pid_t pid : probe.pids) {
    pid_t at = pid;
    for (size_t steps = 0; at != probe.init && steps <= probe.pids.size(); ++steps) {
      auto it = probe.parents.find(at);
      if (it == probe.parents.end()) break;
      at = it->second;
    }
    if (at != probe.init) outside.push_back(pid);
  }
  for (pid_t pid : outside) {
    probe.pids.erase(pid);
    probe.note(Trait::kExecSession, pid, "");
  }
}

void probe_terminals(TaskProbe& probe) {
  for (const auto& [pid, slave] : probe.terminal_slaves) {
    auto slash = slave.rfind('/');
    auto index = parse_u64(slave.substr(slash + 1), "terminal");
    // With its master inside, a terminal is the container's own matter and moves.
    if (index && probe.terminal_masters.contains(static_cast<int64_t>(*index))) continue;
    probe.note(Trait::kTerminal, pid, slave);
  }
}

}  // namespace

bool probe_parent(TaskProbe& probe, pid_t pid) {
  auto text = read_file(probe.path(pid, "status"), 1U << 16);
  if (!text) return false;
  auto fields = parse_fields(*text);
  probe.names[pid] = fields["Name"];
  probe.parents[pid] = static_cast<pid_t>(leading_number(fields["PPid"]));
  probe.states[pid] = fields["State"].empty() ? '?' : fields["State"][0];
  return true;
}

void probe_process(TaskProbe& probe, pid_t pid) {
  ++probe.out.processes;
  if (probe.states[pid] == 'Z') ++probe.out.zombies;
  probe_threads(probe, pid, probe.states[pid]);
  probe_elf_class(probe, pid);
  probe_namespaces(probe, pid);
}

Result<TaskFindings> inspect_tasks(pid_t init, const std::vector<pid_t>& pids, const TaskTreeOptions& options) {
  TaskProbe probe;
  probe.init = init;
  probe.options = options;
  if (!probe_parent(probe, init)) return fail(Errc::kNotFound, "inspect process {}: it has ended", init);
  probe.pids.insert(init);
  for (pid_t pid : pids)
    if (pid == init || probe_parent(probe, pid)) probe.pids.insert(pid);
  leave_out_sessions(probe);
  for (pid_t pid : probe.pids) {
    probe_process(probe, pid);
    probe_descriptors(probe, pid);
    probe_mappings(probe, pid);
    probe_memory(probe, pid);
  }
  finish_memory(probe);
  probe_host_namespaces(probe);
  probe_terminals(probe);
  probe_sockets(probe);
  probe_tmpfs(probe);
  return std::move(probe.out);
}

}  // namespace transship::sys
