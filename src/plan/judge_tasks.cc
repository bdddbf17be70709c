// What a container's processes use, one row per trait. The reasons are in docs/plan.md.
#include <algorithm>

#include "base/text.h"
#include "plan/rows.h"

namespace transship::plan {

namespace {

// Traits of which the verdict does not depend on anything else.
struct Rule {
  Trait trait;
  const char* check;
  Verdict verdict;
  const char* what;    // "N × what"
  const char* remedy;  // empty with kOk
};

constexpr const char* kStopAndStart = "this container can only be stopped here and started there";

constexpr Rule kRules[] = {
    {Trait::kIoUring, "io-uring", Verdict::kBlock, "io_uring instance, which CRIU cannot dump",
     "switch io_uring off in the program's configuration and restart it, or forbid the io_uring_setup system call in "
     "the container's seccomp profile, so that the program falls back"},
    {Trait::kUserfaultfd, "userfaultfd", Verdict::kBlock, "userfaultfd descriptor, which CRIU cannot dump",
     kStopAndStart},
    {Trait::kBpf, "bpf", Verdict::kBlock, "BPF program, map or link, which CRIU cannot dump",
     "load BPF programs from the host instead of from this container"},
    {Trait::kPerfEvent, "perf-events", Verdict::kBlock, "perf event descriptor, which CRIU cannot dump",
     "end the profiler inside the container"},
    {Trait::kFanotify, "fanotify", Verdict::kWarn,
     "fanotify descriptor; CRIU can restore marks only on some file systems",
     "if the dump fails, switch file monitoring off in the program"},
    {Trait::kSeccompNotify, "seccomp-notify", Verdict::kBlock, "seccomp notification listener, which CRIU cannot dump",
     kStopAndStart},
    {Trait::kOtherAnonInode, "kernel-objects", Verdict::kBlock, "kernel object that CRIU cannot dump", kStopAndStart},
    {Trait::kInotify, "inotify", Verdict::kWarn,
     "inotify descriptor with watches on the overlay file system; CRIU finds the watched files only below /etc, "
     "/var/log, "
     "/var/spool and a few more",
     "if the dump fails with \"Can't dump that handle\", switch file watching off, or have it watch a tmpfs"},
    {Trait::kDevice, "devices", Verdict::kBlock, "device",
     "devices belong to the host; run the container without --device, or stop and start it there"},
    {Trait::kOutsideFile, "outside-files", Verdict::kBlock, "open file that is not in the container's file systems",
     "have the container started without descriptors of the host (redirections, systemd sockets)"},
    {Trait::kExternalUnixSocket, "unix-sockets", Verdict::kBlock, "UNIX socket connected to a process outside",
     "end the connection from the outside (journald, D-Bus, an attached client); it cannot reach the other host"},
    {Trait::kRawSocket, "raw-sockets", Verdict::kWarn,
     "raw or packet socket; it is restored, what it had received and not read is lost",
     "make sure that the program expects the same interface names and lost packets"},
    {Trait::kOtherSocket, "sockets", Verdict::kBlock, "socket of a protocol that CRIU cannot dump",
     "have the program use TCP, UDP or UNIX sockets (Go: GODEBUG=multipathtcp=0)"},
    {Trait::kNetlinkSocket, "netlink", Verdict::kOk, "netlink socket; restored without unread messages", ""},
    {Trait::kUprobes, "uprobes", Verdict::kBlock, "user-space probe", "remove the probe (bpftrace, perf) on this host"},
    {Trait::k32Bit, "32-bit", Verdict::kWarn, "32-bit program",
     "make sure that the destination's kernel runs 32-bit programs (CONFIG_IA32_EMULATION)"},
    {Trait::kDebugger, "debugger", Verdict::kBlock, "traced thread; CRIU cannot seize what somebody else traces",
     "detach the debugger or strace"},
    {Trait::kStoppedThread, "stopped-threads", Verdict::kBlock, "process with some threads stopped and others not",
     "continue its threads (kill -CONT), or stop all of them"},
    {Trait::kZombieLeader, "zombie-leader", Verdict::kBlock, "process whose first thread has ended while others go on",
     kStopAndStart},
    {Trait::kNestedNamespace, "nested-namespaces", Verdict::kBlock, "process with a namespace of its own",
     "switch the program's sandbox off, or end that process (containers inside containers cannot move)"},
    {Trait::kHostSysvShm, "sysv-shm", Verdict::kBlock, "System V shared memory of the host",
     "run the container with its own IPC namespace (--ipc private)"},
    {Trait::kHugetlb, "hugetlb", Verdict::kBlock, "mapping of huge pages from the pool (hugetlb)",
     "use transparent huge pages instead (huge_pages=off or try in the program's configuration); they move"},
    {Trait::kExecSession, "exec-sessions", Verdict::kWarn,
     "process that was put in from outside (exec); it ends at the move", "end it first if it matters"},
};

std::string describe(const Seen& seen) {
  std::vector<std::string> parts;
  for (const auto& e : seen.examples) {
    std::string part = fmt::format("{} ({})", e.process.empty() ? "process" : e.process, e.pid);
    if (!e.detail.empty()) part += " " + e.detail;
    parts.push_back(part);
  }
  if (seen.count > seen.examples.size()) parts.push_back(fmt::format("{} more", seen.count - seen.examples.size()));
  return join(parts, ", ");
}

void judge_rules(const TaskFindings& tasks, Rows& rows) {
  for (const auto& rule : kRules) {
    const Seen* seen = tasks.find(rule.trait);
    if (seen != nullptr)
      rows.add(rule.check, rule.verdict, fmt::format("{} × {}: {}", seen->count, rule.what, describe(*seen)),
               rule.remedy);
  }
}

void judge_files(const TaskFindings& tasks, const Abilities& abilities, Rows& rows) {
  if (const Seen* ghosts = tasks.find(Trait::kGhostFile)) {
    std::string found = fmt::format("{} deleted files still open, {}, the largest {}: {}", ghosts->count,
                                    format_bytes(ghosts->amount), format_bytes(ghosts->largest), describe(*ghosts));
    if (ghosts->largest > abilities.ghost_limit)
      rows.block("ghost-files", fmt::format("{}; the limit is {}", found, format_bytes(abilities.ghost_limit)),
                 "have the program close or reopen them (most reopen their logs on SIGHUP or SIGUSR1)");
    else
      rows.ok("ghost-files", found);
  }
  if (const Seen* linked = tasks.find(Trait::kLinkedGhost)) {
    std::string found = fmt::format("{} open files whose name is deleted while another hard link remains: {}",
                                    linked->count, describe(*linked));
    if (abilities.link_remap)
      rows.ok("linked-files", found);
    else
      rows.block("linked-files", found, "have the program close them, or remove the other name as well");
  }
}

void judge_locks(const TaskFindings& tasks, const Abilities& abilities, Rows& rows) {
  const Seen* locks = tasks.find(Trait::kFileLock);
  const Seen* leases = tasks.find(Trait::kLease);
  for (const Seen* seen : {locks, leases}) {
    if (seen == nullptr) continue;
    std::string found = fmt::format("{} file {}: {}", seen->count, seen == locks ? "locks" : "leases", describe(*seen));
    if (abilities.file_locks)
      rows.ok("file-locks", found);
    else
      rows.block("file-locks", found, "have the program release them");
  }
}

void judge_tcp(const TaskFindings& tasks, const Abilities& abilities, Rows& rows) {
  std::string found = fmt::format("{} listening, {} connections to other hosts, {} within the container",
                                  tasks.tcp_listening, tasks.tcp_established, tasks.tcp_loopback);
  if (const Seen* backlog = tasks.find(Trait::kBacklog)) {
    found += fmt::format(", {} not accepted yet ({})", backlog->amount, describe(*backlog));
    rows.warn("tcp", found,
              abilities.skip_in_flight
                  ? "those clients have to connect again"
                  : "CRIU refuses to dump them; if they are there all the time, the program accepts too slowly");
    return;
  }
  if (const Seen* handshakes = tasks.find(Trait::kSynReceived))
    found += fmt::format(", {} handshakes under way, which the clients repeat by themselves", handshakes->count);
  rows.ok("tcp", found);
}

void judge_terminal(const TaskFindings& tasks, const Abilities& abilities, Rows& rows) {
  const Seen* seen = tasks.find(Trait::kTerminal);
  if (seen == nullptr || abilities.terminal) return;
  rows.block("terminal", fmt::format("uses a terminal: {}", describe(*seen)), "start it without -t");
}

// CRIU leaves out what is mounted from the host, and Podman's /dev/shm is.
void judge_dev_shm(const TaskFindings& tasks, const std::string& engine, const Abilities& abilities, Rows& rows) {
  if (tasks.dev_shm_bytes == 0 || engine != "podman" || abilities.dev_shm) return;
  rows.block(
      "dev-shm", fmt::format("{} of files in /dev/shm", format_bytes(tasks.dev_shm_bytes)),
      "have the program keep shared memory elsewhere (memfd, anonymous mappings, a tmpfs of its own with --tmpfs)");
}

void judge_shared_namespaces(const TaskFindings& tasks, Rows& rows) {
  const Seen* seen = tasks.find(Trait::kHostNamespace);
  if (seen == nullptr) return;
  for (const auto& e : seen->examples) {
    if (e.detail == "net")
      rows.block("host-network", "shares the host's network namespace", "run it on a network of the engine's (bridge)");
    else if (e.detail == "pid")
      rows.block("namespaces",
                 "shares the host's PID namespace, where its process numbers may be taken on the destination",
                 "run it with its own (without --pid host)");
    else if (e.detail == "mnt")
      rows.block("namespaces", "shares the host's mount namespace", "run it with its own root file system");
    else
      rows.warn("namespaces",
                fmt::format("shares the host's {} namespace; on the destination it gets that host's", e.detail),
                fmt::format("run it with its own (without --{} host) if that matters", e.detail));
  }
}

}  // namespace

void judge_tasks(const TaskFindings& tasks, const std::string& engine, const Abilities& abilities, Rows& rows) {
  if (!tasks.unreadable.empty())
    rows.warn("task-inspection", fmt::format("not everything could be looked at: {}", join(tasks.unreadable, "; ")),
              "the dump will fail, and be undone, if something is in the way there");
  else
    rows.ok("tasks", fmt::format("{} {}, {} {}", tasks.processes, tasks.processes == 1 ? "process" : "processes",
                                 tasks.threads, tasks.threads == 1 ? "thread" : "threads"));
  judge_shared_namespaces(tasks, rows);
  judge_terminal(tasks, abilities, rows);
  judge_dev_shm(tasks, engine, abilities, rows);
  judge_tcp(tasks, abilities, rows);
  judge_files(tasks, abilities, rows);
  judge_locks(tasks, abilities, rows);
  judge_rules(tasks, rows);
}

}  // namespace transship::plan
