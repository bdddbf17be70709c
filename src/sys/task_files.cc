// What processes have open and mapped.
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <linux/magic.h>

#include <algorithm>
#include <optional>

#include "base/fd.h"
#include "base/text.h"
#include "sys/file.h"
#include "sys/task_probe.h"

namespace transship::sys {

namespace {

constexpr std::string_view kDeleted = " (deleted)";
constexpr size_t kMapsLimit = 64U << 20;

struct AnonInode {
  std::string_view prefix;
  std::optional<Trait> trait;  // nothing: it moves
};
// What follows "anon_inode:". What is not in here is kOtherAnonInode.
constexpr AnonInode kAnonInodes[] = {
    {"[eventfd]", {}},
    {"[eventpoll]", {}},
    {"[timerfd]", {}},
    {"[signalfd]", {}},
    {"[pidfd]", {}},  // judged by its target
    {"inotify", {}},  // judged by its watches
    {"[io_uring]", Trait::kIoUring},
    {"[userfaultfd]", Trait::kUserfaultfd},
    {"bpf", Trait::kBpf},
    {"[perf_event]", Trait::kPerfEvent},
    {"[fanotify]", Trait::kFanotify},
    {"seccomp notify", Trait::kSeccompNotify},
};

constexpr uint64_t kBlock = 512;  // st_blocks counts these, whatever the file system

bool is_harmless_device(std::string_view path) {
  static constexpr std::string_view kFine[] = {"/dev/null",   "/dev/zero",    "/dev/full",
                                               "/dev/random", "/dev/urandom", "/dev/kmsg"};
  return std::ranges::find(kFine, path) != std::end(kFine);
}

bool is_terminal(std::string_view path) {
  return path.starts_with("/dev/pts/") || path.starts_with("/dev/tty") || path == "/dev/console" || path == "/dev/ptmx";
}

// Kernel memory that looks like a deleted file: memfd, System V and anonymous shared memory, huge pages, AIO rings.
bool is_memory_object(std::string_view path) {
  for (std::string_view prefix : {"/memfd:", "/SYSV", "/dev/zero", "/anon_hugepage", "/[aio]"})
    if (path.starts_with(prefix)) return true;
  return false;
}

// All of it: what no process has mapped, or has not touched since it was mapped, is in nobody's resident memory.
void count_memory_object(TaskProbe& probe, std::string_view shown, const std::string& through) {
  struct stat s{};
  if (shown.starts_with("/anon_hugepage") || ::stat(through.c_str(), &s) != 0 || !S_ISREG(s.st_mode)) return;
  if (!probe.counted_files.insert(fmt::format("{}:{}", s.st_dev, s.st_ino)).second) return;
  auto bytes = static_cast<uint64_t>(s.st_blocks) * kBlock;
  probe.shared_object_bytes += bytes;
  // The second is how CRIU restores the first.
  if (shown.starts_with("/dev/zero") || shown.starts_with("/memfd:/dev/zero")) probe.out.unnamed_shared_bytes += bytes;
}

void note_terminal(TaskProbe& probe, pid_t pid, const std::string& target, const FdInfo& info) {
  if (info.tty_index >= 0)
    probe.terminal_masters.insert(info.tty_index);
  else if (!target.ends_with("/ptmx") && target != "/dev/tty")
    probe.terminal_slaves.emplace_back(pid, target);
}

bool is_device_file(const std::string& through, const std::string& shown) {
  struct stat s{};
  if (::stat(through.c_str(), &s) == 0) return S_ISCHR(s.st_mode) || S_ISBLK(s.st_mode);
  return shown.starts_with("/dev/");
}

void probe_path(TaskProbe& probe, pid_t pid, const std::string& target, const std::string& through, const FdInfo& info,
                const std::vector<MountEntry>& mounts) {
  if (is_memory_object(target)) return count_memory_object(probe, target, through);
  if (target.starts_with("/secretmem")) return probe.note(Trait::kOtherAnonInode, pid, "secret memory (memfd_secret)");
  bool device = is_device_file(through, target);
  bool known_mount = std::ranges::any_of(mounts, [&](const MountEntry& m) { return m.id == info.mount_id; });
  if (device && is_terminal(target)) return note_terminal(probe, pid, target, info);
  if (device && !is_harmless_device(target)) return probe.note(Trait::kDevice, pid, target);
  if (!mounts.empty() && info.mount_id != 0 && !known_mount) probe.note(Trait::kOutsideFile, pid, target);
  if (target.ends_with(kDeleted)) note_deleted(probe, pid, target, through);
}

void probe_locks(TaskProbe& probe, pid_t pid, const std::string& target, const FdInfo& info) {
  for (const auto& kind : info.locks) {
    bool lease = kind == "LEASE" || kind == "DELEG";
    probe.note(lease ? Trait::kLease : Trait::kFileLock, pid, fmt::format("{} on {}", kind, target));
  }
}

void probe_socket_fd(TaskProbe& probe, pid_t pid, const std::string& target, const std::string& through) {
  uint64_t inode = leading_number(std::string_view(target).substr(std::string_view("socket:[").size()));
  probe.sockets.emplace(inode, pid);
  if (!probe.options.ask_kernel || probe.socket_protocol.contains(inode)) return;
  char protocol[64];
  ssize_t n = ::getxattr(through.c_str(), "system.sockprotoname", protocol, sizeof protocol);
  if (n <= 0) return;
  probe.socket_protocol[inode] = std::string(protocol, static_cast<size_t>(n)).c_str();  // ends at its NUL
}

// Watches are kept as file handles, and overlay's cannot be opened again: CRIU has to search for the file.
uint64_t watches_on_overlay(const FdInfo& info, const std::vector<MountEntry>& mounts) {
  auto on_overlay = [&](const std::string& device) {
    return std::ranges::any_of(mounts, [&](const MountEntry& m) { return m.device == device && m.type == "overlay"; });
  };
  return static_cast<uint64_t>(std::ranges::count_if(info.watched, on_overlay));
}

void probe_anon_inode(TaskProbe& probe, pid_t pid, const std::string& target, const FdInfo& info,
                      const std::vector<MountEntry>& mounts) {
  Trait trait{};
  if (anon_inode_trait(target, trait)) return probe.note(trait, pid, target.substr(target.find(':') + 1));
  if (auto watches = watches_on_overlay(info, mounts); watches > 0)
    probe.note(Trait::kInotify, pid, fmt::format("{} watches on the root file system", watches), watches);
  if (info.pidfd_pid > 0 && !probe.pids.contains(static_cast<pid_t>(info.pidfd_pid)))
    probe.note(Trait::kOtherAnonInode, pid, fmt::format("pidfd of process {} outside the container", info.pidfd_pid));
}

void probe_descriptor(TaskProbe& probe, pid_t pid, const std::string& fd, const std::vector<MountEntry>& mounts) {
  std::string through = probe.path(pid, fmt::format("fd/{}", fd));
  std::string target = read_link(through);
  if (target.empty()) return;  // closed meanwhile
  if (target.starts_with("socket:[")) return probe_socket_fd(probe, pid, target, through);
  FdInfo info;
  if (auto text = read_file(probe.path(pid, fmt::format("fdinfo/{}", fd)), 1U << 20)) info = parse_fdinfo(*text);
  if (target.starts_with("anon_inode:")) return probe_anon_inode(probe, pid, target, info, mounts);
  if (!target.starts_with('/')) return;  // pipes; namespace files
  probe_path(probe, pid, target, through, info, mounts);
  probe_locks(probe, pid, target, info);
}

}  // namespace

bool anon_inode_trait(std::string_view link, Trait& trait) {
  auto kind = link.substr(link.find(':') + 1);
  trait = Trait::kOtherAnonInode;
  for (const auto& known : kAnonInodes) {
    if (!kind.starts_with(known.prefix)) continue;
    if (known.trait) trait = *known.trait;
    return known.trait.has_value();
  }
  return true;
}

void note_deleted(TaskProbe& probe, pid_t pid, const std::string& shown, const std::string& through) {
  struct stat s{};
  if (::stat(through.c_str(), &s) != 0) return probe.note(Trait::kGhostFile, pid, shown);
  if (!S_ISREG(s.st_mode)) return;
  if (!probe.counted_files.insert(fmt::format("{}:{}", s.st_dev, s.st_ino)).second) return;
  bool linked = s.st_nlink > 0;
  probe.note(linked ? Trait::kLinkedGhost : Trait::kGhostFile, pid,
             shown.substr(0, shown.size() - (shown.ends_with(kDeleted) ? kDeleted.size() : 0)),
             static_cast<uint64_t>(s.st_blocks) * kBlock);
}

void probe_descriptors(TaskProbe& probe, pid_t pid) {
  std::vector<MountEntry> mounts;
  if (auto text = read_file(probe.path(pid, "mountinfo"))) mounts = parse_mountinfo(*text);
  auto fds = open_file(probe.path(pid, "fd"), O_RDONLY | O_DIRECTORY);
  if (!fds) {
    if (fds.error().sys_errno() != ENOENT)
      probe.unreadable(fmt::format("open files of process {} ({}): {}", pid, probe.names[pid], fds.error().message()));
    return;
  }
  for (const auto& fd : list_dir(probe.path(pid, "fd"))) probe_descriptor(probe, pid, fd, mounts);
}

void probe_mappings(TaskProbe& probe, pid_t pid) {
  auto text = read_file(probe.path(pid, "maps"), kMapsLimit);
  if (!text) {
    if (text.error().sys_errno() != ENOENT && text.error().sys_errno() != ESRCH)
      probe.unreadable(fmt::format("mappings of process {} ({}): {}", pid, probe.names[pid], text.error().message()));
    return;
  }
  bool host_ipc = read_link(probe.path(probe.init, "ns/ipc")) == read_link(probe.options.proc + "/self/ns/ipc");
  for (const auto& m : parse_maps(*text)) {
    Trait trait{};
    std::string_view path = m.path;
    if (path.starts_with("anon_inode:")) {
      if (anon_inode_trait(path, trait))
        probe.note(trait, pid, fmt::format("mapped {}", path.substr(path.find(':') + 1)));
    } else if (path.starts_with("/anon_hugepage") || path.starts_with("/dev/hugepages/")) {
      probe.note(Trait::kHugetlb, pid, std::string(path), m.end - m.start);
    } else if (path == "[uprobes]") {
      probe.note(Trait::kUprobes, pid, "");
    } else if (path.starts_with("/secretmem")) {
      probe.note(Trait::kOtherAnonInode, pid, "secret memory (memfd_secret)");
    } else if (path.starts_with("/SYSV") && host_ipc) {
      probe.note(Trait::kHostSysvShm, pid, m.path, m.end - m.start);
    } else if (path.starts_with("/dev/") && !is_harmless_device(path) && !is_memory_object(path) &&
               is_device_file(probe.path(pid, fmt::format("map_files/{:x}-{:x}", m.start, m.end)), m.path)) {
      probe.note(Trait::kDevice, pid, fmt::format("mapped {}", path));
    } else if (is_memory_object(path)) {
      count_memory_object(probe, path, probe.path(pid, fmt::format("map_files/{:x}-{:x}", m.start, m.end)));
    } else if (path.starts_with('/') && path.ends_with(kDeleted)) {
      note_deleted(probe, pid, m.path, probe.path(pid, fmt::format("map_files/{:x}-{:x}", m.start, m.end)));
    }
  }
}

void probe_memory(TaskProbe& probe, pid_t pid) {
  auto text = read_file(probe.path(pid, "smaps_rollup"), 1U << 16);
  if (!text) {
    // A zombie has no memory: ESRCH.
    if (text.error().sys_errno() != ENOENT && text.error().sys_errno() != ESRCH)
      probe.unreadable(fmt::format("memory of process {} ({}): {}", pid, probe.names[pid], text.error().message()));
    return;
  }
  auto fields = parse_fields(*text);
  auto bytes = [&](const char* name) { return leading_number(fields[name]) * 1024; };
  uint64_t hugetlb = bytes("Private_Hugetlb") + bytes("Shared_Hugetlb");
  uint64_t shared = bytes("Pss_Shmem");
  // Kernels before 5.4 do not split the proportional share.
  uint64_t anonymous = fields.contains("Pss_Anon") ? bytes("Pss_Anon") : bytes("Anonymous");
  probe.out.memory_bytes += bytes("Pss") + bytes("SwapPss") + hugetlb;
  probe.out.anonymous_bytes += anonymous + bytes("SwapPss");
  probe.out.shared_bytes += shared;
  if (hugetlb > 0 && probe.out.find(Trait::kHugetlb) == nullptr) probe.note(Trait::kHugetlb, pid, "resident", hugetlb);
}

void finish_memory(TaskProbe& probe) {
  auto& out = probe.out;
  if (probe.shared_object_bytes <= out.shared_bytes) return;
  out.memory_bytes += probe.shared_object_bytes - out.shared_bytes;
  out.shared_bytes = probe.shared_object_bytes;
}

void probe_tmpfs(TaskProbe& probe) {
  if (!probe.options.ask_kernel) return;
  auto text = read_file(probe.path(probe.init, "mountinfo"));
  if (!text) return probe.unreadable(fmt::format("mounts of process {}: {}", probe.init, text.error().message()));
  std::set<std::string> counted;
  for (const auto& m : parse_mountinfo(*text)) {
    // A root other than "/" is a bind mount of some file or directory of a tmpfs that is not the container's own.
    if (m.type != "tmpfs" || m.root != "/" || !counted.insert(m.device).second) continue;
    struct statfs s{};
    std::string at = probe.path(probe.init, "root") + m.point;
    if (::statfs(at.c_str(), &s) != 0 || static_cast<uint64_t>(s.f_type) != TMPFS_MAGIC) continue;
    uint64_t used = (s.f_blocks - s.f_bfree) * static_cast<uint64_t>(s.f_bsize);
    probe.out.tmpfs_bytes += used;
    if (m.point == "/dev/shm") probe.out.dev_shm_bytes += used;
  }
}

}  // namespace transship::sys
