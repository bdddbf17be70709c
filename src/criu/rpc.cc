#include "criu/rpc.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <csignal>

#include "sys/file.h"

namespace transship::criu {
namespace {
// CRIU's own limit is 16 KiB for requests; its answers are a few hundred bytes.
constexpr size_t kMaxPacket = 256U << 10;
constexpr int kRpcFd = 3;
}  // namespace

Result<PacketSocketPair> make_packet_pair() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0) return fail_errno(errno, "make a socket pair");
  return PacketSocketPair{Fd(fds[0]), Fd(fds[1])};
}

Result<Worker> Worker::spawn(const std::string& criu_program, const Options& how) {
  TS_TRY_ASSIGN(PacketSocketPair pair, make_packet_pair());
  sys::Child::Options options;
  options.argv = {criu_program, "swrk", std::to_string(kRpcFd)};
  options.extra_fd = pair.theirs.get();
  options.extra_fd_as = kRpcFd;
  options.env = how.env;
  options.nice = how.nice;
  options.lay_over = how.lay_over;
  options.mount_namespace = how.mount_namespace;
  options.root = how.root;
  Worker worker;
  auto child = sys::Child::spawn(options);
  if (!child)
    return std::unexpected(std::move(child).error().with_remedy("install CRIU 4.2 or newer, or set its path"));
  worker.child_ = std::move(*child);
  // A CRIU that dies in the middle of a dump does harm: let it be the last one to be killed when memory runs out. Needs
  // CAP_SYS_RESOURCE, hence no error without.
  (void)sys::write_control(fmt::format("/proc/{}/oom_score_adj", worker.child_.pid()), "-1000");
  worker.socket_ = std::move(pair.ours);
  return worker;
}

Result<> Worker::send(const rpc::Request& request) {
  auto packet = request.SerializeAsString();
  auto n = retry_eintr([&] { return ::send(socket_.get(), packet.data(), packet.size(), MSG_NOSIGNAL); });
  if (n < 0) return fail_errno(errno, "send a request to CRIU (pid {})", child_.pid());
  return {};
}

Result<rpc::Response> Worker::receive(Deadline deadline, const Cancel* cancel) {
  std::array<pollfd, 2> p = {{{socket_.get(), POLLIN, 0}, {cancel != nullptr ? cancel->poll_fd() : -1, POLLIN, 0}}};
  while (true) {
    int n = ::poll(p.data(), p.size(), static_cast<int>(deadline.remaining().count()));
    if (n < 0 && errno != EINTR) return fail_errno(errno, "wait for CRIU");
    if (n > 0 && p[0].revents != 0) break;
    if (n > 0 && cancel != nullptr && p[1].revents != 0) TS_TRY(cancel->check());
    if (deadline.passed()) return fail(Errc::kTimeout, "CRIU (pid {}) gave no answer in time", child_.pid());
  }
  std::string packet(kMaxPacket, '\0');
  auto got = retry_eintr([&] { return ::recv(socket_.get(), packet.data(), packet.size(), MSG_TRUNC); });
  if (got < 0) return fail_errno(errno, "receive from CRIU");
  if (got == 0) return fail(Errc::kUnavailable, "CRIU (pid {}) ended without an answer", child_.pid());
  if (static_cast<size_t>(got) > packet.size())
    return fail(Errc::kPeerProtocol, "CRIU sent {} bytes in one packet", got);
  rpc::Response response;
  if (!response.ParseFromArray(packet.data(), static_cast<int>(got)))
    return fail(Errc::kPeerProtocol, "CRIU sent an answer that is not one");
  return response;
}

Result<> Worker::answer_notify(bool success) {
  rpc::Request request;
  request.set_type(rpc::NOTIFY);
  request.set_notify_success(success);
  return send(request);
}

void Worker::finish(Deadline deadline) {
  socket_.reset();
  if (!child_.running()) return;
  if (child_.wait(deadline)) return;
  child_.kill(SIGKILL);
  (void)child_.wait(Deadline::in(milliseconds(5000)));
}

}  // namespace transship::criu
