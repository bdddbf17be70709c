#include "criu/rescue.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <filesystem>

#include "base/fd.h"
#include "base/text.h"
#include "sys/nft_table.h"
#include "sys/process.h"

namespace transship::criu {
namespace {

// CRIU 4.1 and newer name their table after the run; older ones use the bare word.
constexpr std::string_view kLockTablePrefix = "CRIU";

Result<> remove_lock_tables(pid_t pid) {
  TS_TRY_ASSIGN(auto nft, sys::NftSocket::open_in_netns_of(pid));
  TS_TRY_ASSIGN(auto names, nft.tables());
  for (const auto& name : names) {
    if (name.starts_with(kLockTablePrefix)) TS_TRY(nft.remove(name));
  }
  return {};
}

// `mode`: TCP_REPAIR_OFF ends it where it is on; TCP_REPAIR_ON begins it wherever it can.
Result<> set_repair(int pidfd, int target_fd, pid_t pid, int mode) {
  Fd socket(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd, target_fd, 0)));
  if (!socket.valid()) return fail_errno(errno, "get descriptor {} of process {}", target_fd, pid);
  int repair = 0;
  socklen_t size = sizeof repair;
  // Fails for every socket that is not TCP.
  if (::getsockopt(socket.get(), IPPROTO_TCP, TCP_REPAIR, &repair, &size) < 0) return {};
  if ((repair == TCP_REPAIR_ON) == (mode == TCP_REPAIR_ON)) return {};
  if (::setsockopt(socket.get(), IPPROTO_TCP, TCP_REPAIR, &mode, sizeof mode) == 0) return {};
  // One that listens has no connection.
  if (mode == TCP_REPAIR_ON && errno == EPERM) return {};
  return fail_errno(errno, "change the TCP repair mode of descriptor {} of process {}", target_fd, pid);
}

Result<> set_repair_of_process(pid_t pid, int mode) {
  TS_TRY_ASSIGN(Fd pidfd, sys::pidfd_open(pid));
  std::error_code error;
  Result<> first;
  for (const auto& entry : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", pid), error)) {
    auto target = std::filesystem::read_symlink(entry.path(), error).string();
    if (!target.starts_with("socket:")) continue;
    auto number = parse_u64(entry.path().filename().string(), "descriptor");
    if (!number) continue;
    if (auto r = set_repair(pidfd.get(), static_cast<int>(*number), pid, mode); !r && first) first = std::move(r);
  }
  return first;
}

}  // namespace

Result<> open_network_again(pid_t pid, const std::vector<pid_t>& pids) {
  Result<> first = remove_lock_tables(pid);
  for (pid_t p : pids) {
    if (auto r = set_repair_of_process(p, TCP_REPAIR_OFF); !r && first) first = std::move(r);
  }
  return first;
}

Result<> mute_sockets(const std::vector<pid_t>& pids) {
  Result<> first;
  for (pid_t p : pids) {
    if (auto r = set_repair_of_process(p, TCP_REPAIR_ON); !r && first) first = std::move(r);
  }
  return first;
}

}  // namespace transship::criu
