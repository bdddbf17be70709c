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

Result<> wait_for(int socket, const char* what) {
  pollfd p{socket, POLLIN, 0};
  if (retry_eintr([&] { return ::poll(&p, 1, kRequestTimeoutMs); }) == 1) return {};
  return fail(Errc::kTimeout, "wait for {}: nothing came", what);
}

Result<bool> is_restore() {
  TS_TRY(wait_for(kRpcFd, "the request of runc"));
  std::array<unsigned char, 2> head{};
  auto got = retry_eintr([&] { return ::recv(kRpcFd, head.data(), head.size(), MSG_PEEK); });
  return got == static_cast<ssize_t>(head.size()) && head == kRestorePrefix;
}

// Under a number that is in nobody's way and survives exec: CRIU finds it by that number.
Result<Fd> keep_for_criu(const Fd& fd) {
  Fd moved(::fcntl(fd.get(), F_DUPFD, kFirstOwnFd));
  if (!moved.valid()) return fail_errno(errno, "duplicate a descriptor for CRIU");
  return moved;
}

Result<Fd> open_for_criu(const char* path) {
  TS_TRY_ASSIGN(Fd dir, open_file(path, O_RDONLY | O_DIRECTORY));
  return keep_for_criu(dir);
}

// Their numbers, each behind a space.
Result<std::string> keep_files(int runtime, std::vector<Fd>& kept) {
  TS_TRY(wait_for(runtime, "files of the runtime"));
  TS_TRY_ASSIGN(auto packet, receive_packet(runtime));
  if (packet.data != kFilesFollow) return fail(Errc::kPeerProtocol, "the runtime ended, or sent something else");
  std::string numbers;
  for (const auto& file : packet.fds) {
    TS_TRY_ASSIGN(Fd moved, keep_for_criu(file));
    numbers += fmt::format(" {}", moved.get());
    kept.push_back(std::move(moved));
  }
  return numbers;
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
  std::vector<Fd> files;
  TS_TRY_ASSIGN(auto files_at, keep_files(runtime.poll_fd(), files));
  auto numbers = fmt::format("{} {}{}", images.get(), work.get(), files_at);
  TS_TRY(sys::send_packet(runtime.poll_fd(), numbers, std::array{kRpcFd, to_runtime.get()}));
  if (::dup2(to_criu.get(), kRpcFd) < 0) return fail_errno(errno, "dup2");
  // These stay open in CRIU.
  (void)images.release();
  (void)work.release();
  for (auto& file : files) (void)file.release();
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
