#include "gate/criu_role.h"

#include <poll.h>
#include <sched.h>
#include <sys/socket.h>

#include <array>
#include <cstdlib>
#include <cstring>

#include "base/fd.h"
#include "gate/protocol.h"
#include "sys/packet.h"

namespace transship::gate {
namespace {

constexpr int kRpcFd = 3;                  // runc: ExtraFiles[0]
constexpr int kFirstOwnFd = 200;           // above all that runc hands over (namespaces, pipes)
constexpr int kRequestTimeoutMs = 10'000;  // runc sends right after the start; it only has a cgroup to make
constexpr int kExitFailure = 1;
// The first two bytes of a request: field 1 (type), a varint, RESTORE.
constexpr std::array<unsigned char, 2> kRestorePrefix = {0x08, 0x02};

const char* variable(const char* name) {
  const char* value = ::secure_getenv(name);
  return value != nullptr ? value : "";
}

Result<bool> is_restore() {
  pollfd p{kRpcFd, POLLIN, 0};
  if (retry_eintr([&] { return ::poll(&p, 1, kRequestTimeoutMs); }) != 1)
    return fail(Errc::kTimeout, "wait for the request of runc: none came");
  std::array<unsigned char, 2> head{};
  auto got = retry_eintr([&] { return ::recv(kRpcFd, head.data(), head.size(), MSG_PEEK); });
  return got == static_cast<ssize_t>(head.size()) && head == kRestorePrefix;
}

// A directory of our own, open under a number that is in nobody's way and survives exec: CRIU opens it by that number.
Result<Fd> open_for_criu(const char* path) {
  TS_TRY_ASSIGN(Fd dir, open_file(path, O_RDONLY | O_DIRECTORY));
  Fd moved(::fcntl(dir.get(), F_DUPFD, kFirstOwnFd));
  if (!moved.valid()) return fail_errno(errno, "duplicate the descriptor of {}", path);
  return moved;
}

// Hands the socket to runc, and one end of a new one, to the runtime; this process keeps the other end as kRpcFd. CRIU
// takes the maker of its socket, which is this process, for its client.
Result<> step_aside() {
  if (*variable(kCgroupNamespaceVariable) != '\0' && ::unshare(CLONE_NEWCGROUP) < 0)
    return fail_errno(errno, "make a cgroup namespace");
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) return fail_errno(errno, "make a socket pair");
  Fd to_runtime(pair[0]);
  Fd to_criu(pair[1]);
  TS_TRY_ASSIGN(Fd images, open_for_criu(variable(kImagesVariable)));
  TS_TRY_ASSIGN(Fd work, open_for_criu(variable(kWorkVariable)));
  TS_TRY_ASSIGN(Channel runtime, Channel::connect(variable(kCriuSocketVariable)));
  auto numbers = fmt::format("{} {}", images.get(), work.get());
  TS_TRY(sys::send_packet(runtime.poll_fd(), numbers, std::array{kRpcFd, to_runtime.get()}));
  if (::dup2(to_criu.get(), kRpcFd) < 0) return fail_errno(errno, "dup2");
  // These two stay open in CRIU.
  (void)images.release();
  (void)work.release();
  return {};
}

}  // namespace

int run_as_criu(int argc, char** argv) {
  const char* real = variable(kRealCriuVariable);
  if (*real == '\0') {
    fmt::print(stderr, "transship-runtime: started as criu, but not by transship-runtime\n");
    return kExitFailure;
  }
  if (argc > 2 && std::strcmp(argv[1], "swrk") == 0) {
    auto restore = is_restore();
    auto ready = !restore ? Result<>(std::unexpected(restore.error())) : *restore ? step_aside() : Result<>();
    if (!ready) {
      fmt::print(stderr, "transship-runtime: as criu: {}\n", ready.error().message());
      return kExitFailure;
    }
  }
  ::execv(real, argv);
  fmt::print(stderr, "transship-runtime: start {}: {}\n", real, errno_text(errno));
  return kExitFailure;
}

}  // namespace transship::gate
