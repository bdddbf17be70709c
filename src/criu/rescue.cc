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

Result<> end_repair(int pidfd, int target_fd, pid_t pid) {
  Fd socket(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd, target_fd, 0)));
  if (!socket.valid()) return fail_errno(errno, "get descriptor {} of process {}", target_fd, pid);
  int repair = 0;
  socklen_t size = sizeof repair;
  // Fails for every socket that is not TCP.
  if (::getsockopt(socket.get(), IPPROTO_TCP, TCP_REPAIR, &repair, &size) < 0 || repair != TCP_REPAIR_ON) return {};
  int off = TCP_REPAIR_OFF;
  if (::setsockopt(socket.get(), IPPROTO_TCP, TCP_REPAIR, &off, sizeof off) < 0)
    return fail_errno(errno, "take descriptor {} of process {} out of TCP repair mode", target_fd, pid);
  return {};
}

Result<> end_repair_of_process(pid_t pid) {
  TS_TRY_ASSIGN(Fd pidfd, sys::pidfd_open(pid));
  std::error_code error;
  Result<> first;
  for (const auto& entry : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", pid), error)) {
    auto target = std::filesystem::read_symlink(entry.path(), error).string();
    if (!target.starts_with("socket:")) continue;
    auto number = parse_u64(entry.path().filename().string(), "descriptor");
    if (!number) continue;
    if (auto r = end_repair(pidfd.get(), static_cast<int>(*number), pid); !r && first) first = std::move(r);
  }
  return first;
}

}  // namespace

Result<> open_network_again(pid_t pid, const std::vector<pid_t>& pids) {
  Result<> first = remove_lock_tables(pid);
  for (pid_t p : pids) {
    if (auto r = end_repair_of_process(p); !r && first) first = std::move(r);
  }
  return first;
}

}  // namespace transship::criu
