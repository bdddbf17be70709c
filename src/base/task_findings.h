// What a container's processes use, as far as it matters to a move. Plain values: collected by sys/task_tree.h on the
// source, judged by plan/plan.h (which may know nothing of /proc).
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace transship {

// Something that cannot move, or only under a condition. The order is that of the plan's rows.
enum class Trait : uint8_t {
  kIoUring,  // io_uring instance
  kUserfaultfd,
  kBpf,  // programs, maps, links
  kPerfEvent,
  kFanotify,
  kSeccompNotify,       // listener of a seccomp user notification
  kOtherAnonInode,      // an anonymous inode that CRIU is not known to dump
  kInotify,             // with watches on an overlay file system; amount: those
  kDevice,              // open or mapped device other than null, zero, full, random, urandom and terminals
  kOutsideFile,         // opened on a mount that the container does not have
  kGhostFile,           // deleted, still open or mapped; amount: bytes on disk
  kLinkedGhost,         // the name it was opened by is deleted, another hard link remains
  kExternalUnixSocket,  // connected to a process outside the container
  kRawSocket,           // raw or packet
  kOtherSocket,         // a protocol CRIU cannot dump: SCTP, DCCP, MPTCP, VSOCK, ALG, …
  kNetlinkSocket,
  kSynReceived,  // connection of which the handshake is not finished
  kBacklog,      // amount: connections that a listening socket has not accepted yet
  kHugetlb,      // amount: bytes
  kUprobes,
  k32Bit,
  kDebugger,         // somebody traces it
  kStoppedThread,    // some threads of a process are stopped, others not
  kZombieLeader,     // first thread has ended, others go on
  kNestedNamespace,  // a namespace of its own inside the container
  kHostNamespace,    // detail: "net", "ipc", "pid", "uts", "user": shared with the host
  kHostSysvShm,      // System V shared memory in the host's IPC namespace
  kExecSession,      // in the container, not a descendant of its first process ("podman exec")
  kFileLock,         // POSIX, flock, OFD
  kLease,            // file lease: CRIU moves it only when nothing is breaking it
  kTerminal,         // has a controlling terminal, or one open
};

struct Seen {
  struct Example {
    pid_t pid = 0;
    std::string process;  // its command name
    std::string detail;   // path, protocol, ports…
  };
  uint64_t count = 0;                  // of all, examples or not
  uint64_t amount = 0;                 // sum, in the trait's own unit
  uint64_t largest = 0;                // of one
  std::vector<Example> examples = {};  // the first few
};

struct TaskFindings {
  std::map<Trait, Seen> seen;

  uint32_t processes = 0;
  uint32_t threads = 0;
  uint32_t zombies = 0;
  // Proportional shares, so that pages shared by two of them count once; swapped pages included.
  uint64_t memory_bytes = 0;          // resident, everything
  uint64_t anonymous_bytes = 0;       // what CRIU has to dump of private memory
  uint64_t shared_bytes = 0;          // shared memory, mapped or not: always dumped while frozen
  uint64_t unnamed_shared_bytes = 0;  // of it, anonymous: only the container's own processes can have it
  uint64_t tmpfs_bytes = 0;           // files in tmpfs mounts; those of the container's own travel with CRIU's images
  uint64_t dev_shm_bytes = 0;         // of them, those in /dev/shm (Podman mounts that one from the host)

  uint32_t tcp_established = 0;  // to other hosts; loopback ones not counted
  uint32_t tcp_loopback = 0;
  uint32_t tcp_listening = 0;
  std::map<uint16_t, uint32_t> established_by_port;  // local port -> connections to other hosts
  uint32_t tcp_hosts = 0;                            // to which these are
  // Listening TCP and UDP without a peer, not on all addresses or loopback: "TCP 10.88.0.3:6379", the first few.
  std::vector<std::string> bound_to_address;

  // What could not be read, and why; one sentence each. Processes that ended meanwhile are not in here.
  std::vector<std::string> unreadable;

  const Seen* find(Trait trait) const {
    auto it = seen.find(trait);
    return it == seen.end() ? nullptr : &it->second;
  }
};

}  // namespace transship
