#include "gate/criu_proxy.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <csignal>
#include <filesystem>

#include "base/text.h"
#include "gate/criu_role.h"
#include "gate/protocol.h"
#include "proto/criu_rpc.pb.h"
#include "sys/file.h"
#include "sys/packet.h"

namespace transship::gate {
namespace {

namespace rpc = criu::rpc;

constexpr milliseconds kRuncAnswers{2000};
constexpr milliseconds kFreezeTime{2000};
constexpr int kLogLevel = 2;  // runc asks for 4, which is several lines per mapping

Result<pid_t> maker_of(int socket) {
  ucred cred{};
  socklen_t size = sizeof cred;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0) return fail_errno(errno, "find CRIU's pid");
  return cred.pid;
}

Result<> wait_packet(int socket, Deadline deadline, const char* from) {
  pollfd p{socket, POLLIN, 0};
  int n = retry_eintr([&] { return ::poll(&p, 1, static_cast<int>(deadline.remaining().count())); });
  if (n < 0) return fail_errno(errno, "wait for {}", from);
  if (n == 0) return fail(Errc::kTimeout, "{} gave no answer in time", from);
  return {};
}

// Where CRIU goes when it leaves the container's cgroup: to ours, or where ours is out of sight, to the root.
Result<> move_out(pid_t pid) {
  auto text = std::to_string(pid);
  TS_TRY_ASSIGN(std::string mount, sys::cgroup2_mount());
  if (auto own = sys::Cgroup::of_process(::getpid()); own && sys::write_control(own->path() + "/cgroup.procs", text))
    return {};
  return sys::write_control(mount + "/cgroup.procs", text);
}

}  // namespace

Result<CriuSockets> receive_criu_sockets(int connection, std::span<const Fd> files) {
  std::vector<int> lent;
  for (const auto& file : files) lent.push_back(file.get());
  TS_TRY_CTX(sys::send_packet(connection, kFilesFollow, lent), "give CRIU its files");
  TS_TRY(wait_packet(connection, Deadline::in(kRuncAnswers), "what runc started as CRIU"));
  TS_TRY_ASSIGN(auto packet, receive_packet(connection));
  auto numbers = split(packet.data, ' ');
  if (packet.fds.size() != 2 || numbers.size() != 2 + files.size())
    return fail(Errc::kPeerProtocol, "what runc started as CRIU did not hand over its sockets");
  TS_TRY_ASSIGN(auto images, parse_u64(numbers[0], "images descriptor"));
  TS_TRY_ASSIGN(auto work, parse_u64(numbers[1], "work descriptor"));
  CriuSockets sockets{std::move(packet.fds[0]), std::move(packet.fds[1]), static_cast<int>(images),
                      static_cast<int>(work)};
  for (const auto& number : std::span(numbers).subspan(2)) {
    TS_TRY_ASSIGN(auto file, parse_u64(number, "descriptor of a file"));
    sockets.files.push_back(static_cast<int>(file));
  }
  return sockets;
}

Result<sys::NftSocket> hold_network(const std::string& netns) {
  if (sys::is_own_netns(netns))
    return std::unexpected(
        Error(Errc::kRefused, "the container uses the host's network: its packets cannot be held back")
            .with_remedy("give the container a network of its own"));
  TS_TRY_ASSIGN(auto socket, sys::NftSocket::open_in_netns(netns));
  // There already: of an attempt that was killed, in a network that the operator made.
  if (auto added = socket.add_drop_all(kHoldTable, kHoldPriority);
      !added && added.error().code() != Errc::kAlreadyExists)
    return std::unexpected(std::move(added).error());
  return socket;
}

Result<> CriuProxy::take_request() {
  TS_TRY(wait_packet(sockets_.runc.get(), Deadline::in(kRuncAnswers), "runc"));
  TS_TRY_ASSIGN(auto packet, receive_packet(sockets_.runc.get()));
  rpc::Request request;
  if (!request.ParseFromString(packet.data) || request.type() != rpc::RESTORE)
    return fail(Errc::kPeerProtocol, "runc sent CRIU a request that is not a restore");
  auto* opts = request.mutable_opts();
  opts->set_images_dir_fd(sockets_.images_fd);
  opts->set_work_dir_fd(sockets_.work_fd);
  opts->set_log_level(kLogLevel);
  opts->set_tcp_established(true);
  opts->set_file_locks(true);
  // The tasks stay where runc has put CRIU: in the container's own cgroup. CRIU's own ways lead to the source's path.
  opts->clear_manage_cgroups();
  opts->set_manage_cgroups_mode(rpc::CGROUP_IGNORE);
  // A configuration file would have the last word over all of this.
  opts->clear_config_file();
  request_ = request.SerializeAsString();
  TS_TRY_ASSIGN(criu_pid_, maker_of(sockets_.criu.get()));
  TS_TRY_ASSIGN(auto theirs, sys::Cgroup::of_process(criu_pid_));
  cgroup_ = theirs.path();
  // Freezing or killing this cgroup must not reach us.
  TS_TRY_ASSIGN(auto pids, theirs.processes());
  for (pid_t p : pids) {
    if (p == ::getpid() || p == ::getppid()) {
      cgroup_.clear();
      return fail(Errc::kUnavailable, "runc did not put the container into a cgroup of its own ({})", theirs.path());
    }
  }
  return {};
}

Result<> CriuProxy::set_lazy() {
  rpc::Request request;
  if (!request.ParseFromString(request_)) return fail(Errc::kInternal, "our own request to CRIU cannot be read");
  request.mutable_opts()->set_lazy_pages(true);
  request_ = request.SerializeAsString();
  return {};
}

Result<> CriuProxy::set_inherited(const std::vector<std::string>& keys) {
  if (keys.size() > sockets_.files.size())
    return fail(Errc::kPeerProtocol, "CRIU is to inherit {} files and was given {}", keys.size(),
                sockets_.files.size());
  rpc::Request request;
  if (!request.ParseFromString(request_)) return fail(Errc::kInternal, "our own request to CRIU cannot be read");
  for (size_t i = 0; i < keys.size(); ++i) {
    if (keys[i].empty()) continue;
    auto* inherit = request.mutable_opts()->add_inherit_fd();
    inherit->set_key(keys[i]);
    inherit->set_fd(sockets_.files[i]);
  }
  request_ = request.SerializeAsString();
  return {};
}

Result<> CriuProxy::restore(Deadline deadline, int stop, const std::function<std::optional<Error>()>& why,
                            const std::function<void(const std::string&, pid_t)>& on_stage) {
  TS_TRY_CTX(sys::send_packet(sockets_.criu.get(), request_), "let CRIU restore");
  while (true) {
    auto done = step(deadline, stop, why, on_stage);
    if (leaving_.joinable() && (!done || *done)) leaving_.join();
    if (!done) {
      kill_all();
      return std::unexpected(refusal_ ? std::move(*refusal_) : std::move(done).error());
    }
    if (*done) break;
  }
  if (refusal_) return std::unexpected(std::move(*refusal_));
  return {};
}

// One packet from CRIU, or one word from the gate. True when CRIU has given its final answer.
Result<bool> CriuProxy::step(Deadline deadline, int stop, const std::function<std::optional<Error>()>& why,
                             const std::function<void(const std::string&, pid_t)>& on_stage) {
  std::array<pollfd, 2> p = {{{sockets_.criu.get(), POLLIN, 0}, {refusal_ ? -1 : stop, POLLIN, 0}}};
  int n = retry_eintr([&] { return ::poll(p.data(), p.size(), static_cast<int>(deadline.remaining().count())); });
  if (n < 0) return fail_errno(errno, "wait for CRIU");
  if (n == 0) return fail(Errc::kTimeout, "the restore was not done when the gate's time was up");
  if (p[1].revents != 0) {
    refusal_ = why();
    // CRIU hears it at its next stage, where it can undo everything itself; later only killing is left.
    if (refusal_ && network_unlocked_) return std::unexpected(*refusal_);
    return false;
  }
  TS_TRY_ASSIGN(auto packet, receive_packet(sockets_.criu.get()));
  if (packet.data.empty()) return fail(Errc::kUnavailable, "CRIU ended in the middle of the restore");
  rpc::Response response;
  if (!response.ParseFromString(packet.data)) return fail(Errc::kPeerProtocol, "CRIU sent an answer that is not one");
  std::vector<int> fds;
  fds.reserve(packet.fds.size());
  for (const auto& fd : packet.fds) fds.push_back(fd.get());
  TS_TRY_CTX(sys::send_packet(sockets_.runc.get(), packet.data, fds), "pass CRIU's word on to runc");
  if (response.type() != rpc::NOTIFY) {
    sockets_.runc.reset();
    if (!response.success() && !refusal_) refusal_ = Error(Errc::kUnavailable, "CRIU could not restore");
    return true;
  }
  if (response.notify().pid() > 0) pid_ = response.notify().pid();
  TS_TRY(handle_notify(packet.data, response.notify().script(), on_stage));
  return false;
}

Result<> CriuProxy::handle_notify(std::string_view, const std::string& script,
                                  const std::function<void(const std::string&, pid_t)>& on_stage) {
  // runc first: at post-restore it writes its state file.
  TS_TRY(wait_packet(sockets_.runc.get(), Deadline::in(kRuncAnswers), "runc"));
  TS_TRY_ASSIGN(auto answer, receive_packet(sockets_.runc.get()));
  if (answer.data.empty()) return fail(Errc::kUnavailable, "runc ended in the middle of the restore");
  on_stage(script, pid_);
  if (!refusal_) {
    if (auto r = at_stage(script); !r) {
      refusal_ = std::move(r).error();
      if (network_unlocked_) return std::unexpected(*refusal_);
    }
  }
  if (refusal_) {
    rpc::Request no;
    no.set_type(rpc::NOTIFY);
    no.set_notify_success(false);
    answer.data = no.SerializeAsString();
  }
  TS_TRY_CTX(sys::send_packet(sockets_.criu.get(), answer.data), "answer CRIU");
  return {};
}

Result<> CriuProxy::at_stage(const std::string& script) {
  if (script == "setup-namespaces") {
    start_leaving_cgroup();
    if (!nft_) {
      TS_TRY_ASSIGN(nft_, hold_network(fmt::format("/proc/{}/ns/net", pid_)));
    }
  }
  if (script == "network-unlock") network_unlocked_ = true;
  if (script == "pre-resume") return freeze();
  return {};
}

// runc put CRIU into the container's cgroup, which is to be frozen: CRIU would freeze itself. Moving a process costs
// some 8 ms of waiting in the kernel, so it is done while CRIU restores memory. Only the first task is there by now;
// all others descend from it.
void CriuProxy::start_leaving_cgroup() {
  leaving_ = Thread("leave-cgroup", [this] { left_cgroup_ = move_out(criu_pid_); });
}

Result<> CriuProxy::freeze() {
  leaving_.join();
  TS_TRY_CTX(std::move(left_cgroup_), "move CRIU out of the container's cgroup");
  TS_TRY_ASSIGN(auto cgroup, sys::Cgroup::at(cgroup_));
  TS_TRY_ASSIGN(auto of_task, sys::Cgroup::of_process(pid_));
  if (of_task.path() != cgroup_)
    return fail(Errc::kInternal, "process {} was restored into {} instead of {}", pid_, of_task.path(), cgroup_);
  return cgroup.freeze(Deadline::in(kFreezeTime));
}

void CriuProxy::kill_all() {
  if (!cgroup_.empty()) {
    if (auto cgroup = sys::Cgroup::at(cgroup_)) (void)cgroup->kill_all();
  }
  if (criu_pid_ > 0) (void)::kill(criu_pid_, SIGKILL);
  sockets_.criu.reset();
  sockets_.runc.reset();
}

}  // namespace transship::gate
