#include "gate/gate.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "base/fault.h"
#include "base/log.h"
#include "base/text.h"
#include "gate/criu_leftovers.h"
#include "sys/cgroup.h"
#include "sys/file.h"
#include "sys/nft_table.h"
#include "sys/process.h"

namespace transship::gate {
namespace {

using nlohmann::json;

constexpr milliseconds kAbortTime{6000};  // CRIU undoes, runc tidies up
constexpr milliseconds kKillTime{2000};
constexpr milliseconds kFrozenTime{1000};

// All but the mark of a parked container, whose `start` is still to come; rmdir spares what is not empty. A runtime
// that was killed may have left files that have no name here: the beginning of the mark, for one.
void remove_gate_dir(const std::string& dir) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(dir, ignored))
    if (entry.path().filename() != kParkedFile) (void)std::filesystem::remove_all(entry.path(), ignored);
  (void)::rmdir(dir.c_str());
}

Result<> kill_cgroup(const std::string& path, Deadline deadline) {
  TS_TRY_ASSIGN(auto never, Cancel::create());
  // The engine removes the cgroup of a dead container: then there is nothing left to kill.
  while (std::filesystem::exists(path)) {
    TS_TRY_ASSIGN(auto cgroup, sys::Cgroup::at(path));
    auto populated = cgroup.populated();
    if (populated && !*populated) return {};
    (void)cgroup.kill_all();
    if (deadline.passed()) return fail(Errc::kTimeout, "the tasks in {} did not die", path);
    TS_TRY(sleep_for(milliseconds(2), never));
  }
  return {};
}

// runc gives up removing it when tasks that were killed take longer to be gone than it waits.
void remove_cgroup(const std::string& path) {
  auto deadline = Deadline::in(kKillTime);
  while (::rmdir(path.c_str()) != 0 && errno == EBUSY && !deadline.passed())
    std::this_thread::sleep_for(milliseconds(2));
}

Fd first_of(std::vector<Fd> fds) { return fds.empty() ? Fd() : std::move(fds.front()); }

std::chrono::microseconds since(Clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start);
}

}  // namespace

struct Parked::State {
  pid_t pid = 0;
  uint64_t start_time = 0;
  std::string cgroup;
  // Asking for the tables is done on the same socket.
  mutable sys::NftSocket nft;
};

Parked::Parked(std::unique_ptr<State> state) : state_(std::move(state)) {}
Parked::Parked(Parked&&) noexcept = default;
Parked& Parked::operator=(Parked&&) noexcept = default;
Parked::~Parked() = default;

pid_t Parked::pid() const { return state_->pid; }
const std::string& Parked::cgroup() const { return state_->cgroup; }

std::string Parked::facts() const {
  return json{{"pid", state_->pid}, {"start_time", state_->start_time}, {"cgroup", state_->cgroup}}.dump();
}

Result<Parked> Parked::adopt(const std::string& facts) {
  auto j = json::parse(facts, nullptr, false);
  if (!j.is_object() || !j.contains("pid") || !j["pid"].is_number_integer() || !j.contains("start_time") ||
      !j["start_time"].is_number_unsigned() || !j.contains("cgroup") || !j["cgroup"].is_string())
    return fail(Errc::kCorrupt, "these are not the facts of a parked container: {}", facts.substr(0, 200));
  auto pid = j["pid"].get<pid_t>();
  auto start = sys::start_time(pid);
  if (!start || *start != j["start_time"].get<uint64_t>())
    return fail(Errc::kNotFound, "the parked container's process {} is gone", pid);
  TS_TRY_ASSIGN(auto nft, sys::NftSocket::open_in_netns_of(pid));
  return Parked(std::make_unique<State>(pid, *start, j["cgroup"].get<std::string>(), std::move(nft)));
}

Result<> Parked::verify() const {
  TS_TRY_ASSIGN(auto cgroup, sys::Cgroup::at(state_->cgroup));
  TS_TRY_ASSIGN(auto of_task, sys::Cgroup::of_process(state_->pid));
  if (of_task.path() != state_->cgroup)
    return fail(Errc::kInternal, "process {} is in {} instead of {}", state_->pid, of_task.path(), state_->cgroup);
  // CRIU has just let go of the tasks.
  TS_TRY_CTX(cgroup.await_frozen(Deadline::in(kFrozenTime)), "the restored container is not frozen");
  TS_TRY_ASSIGN(bool held, state_->nft.has(kHoldTable));
  if (!held) return fail(Errc::kInternal, "the network of process {} is not held back", state_->pid);
  return {};
}

Result<ReleaseTimes> Parked::release(Deadline deadline, const std::function<void()>& opened) {
  ReleaseTimes times;
  TS_TRY_ASSIGN(auto cgroup, sys::Cgroup::at(state_->cgroup));
  auto start = Clock::now();
  // First the network: tasks that run without it would lose what they send.
  TS_TRY_CTX(state_->nft.remove(kHoldTable), "open the container's network");
  times.network = since(start);
  if (opened) opened();
  TS_TRY_CTX(cgroup.thaw(deadline), "let the container run");
  times.tasks = since(start);
  return times;
}

Result<> Parked::kill(Deadline deadline) {
  TS_TRY(kill_cgroup(state_->cgroup, deadline));
  // An empty cgroup that is still frozen looks like a paused container to its engine. Not where runc may be alive and
  // tidying up: it freezes the cgroup as well, and waits 10 s for one that was thawed under its hands.
  if (auto cgroup = sys::Cgroup::at(state_->cgroup)) (void)cgroup->thaw(Deadline::in(milliseconds(100)));
  return {};
}

struct Gate::State {
  std::string id;
  std::string dir;
  Fd listener;
  Channel runtime;
  Fd criu_guard;  // keeps CRIU from seeing the end of its connection, should the runtime die
  Fd criu;        // pidfd of it
  std::vector<std::string> criu_directories_before;
  std::string cgroup;
  bool arrived = false;
  bool over = false;  // parked, or failed and tidied up
  bool parked = false;

  Result<Message> expect(Kind wanted, Deadline deadline, const Cancel& cancel, Fd* fd);
  Error runtime_lost(Error error);
  Result<> keep_guard(Message prepared, Fd socket);
};

// The runtime died, or must be taken for dead: nothing that it has restored may get to run.
Error Gate::State::runtime_lost(Error error) {
  over = true;
  if (!cgroup.empty()) {
    if (auto r = kill_cgroup(cgroup, Deadline::in(kKillTime)); !r)
      TS_LOG_ERROR("gate id={} kill_failed={}", id, r.error().message());
  }
  // A CRIU whose tasks die while it waits for them, late in a restore, would wait for ever.
  if (criu.valid()) (void)::syscall(SYS_pidfd_send_signal, criu.get(), SIGKILL, nullptr, 0);
  criu_guard.reset();
  runtime.close();
  if (criu.valid()) {
    pollfd ended{criu.get(), POLLIN, 0};
    (void)::poll(&ended, 1, static_cast<int>(kKillTime.count()));
    remove_criu_directories(criu_directories_before);
  }
  return std::move(error).context(fmt::format("transship-runtime at the gate of container {}", id));
}

Result<> Gate::State::keep_guard(Message prepared, Fd socket) {
  criu_guard = std::move(socket);
  cgroup = std::move(prepared.cgroup);
  ucred maker{};
  socklen_t size = sizeof maker;
  if (::getsockopt(criu_guard.get(), SOL_SOCKET, SO_PEERCRED, &maker, &size) < 0)
    return fail_errno(errno, "find the CRIU of container {}", id);
  TS_TRY_ASSIGN(criu, sys::pidfd_open(maker.pid));
  return {};
}

Result<Message> Gate::State::expect(Kind wanted, Deadline deadline, const Cancel& cancel, Fd* fd) {
  while (true) {
    auto got = runtime.receive(deadline, &cancel);
    if (!got) {
      // Called off or late: the runtime is told by abort(), and tidies up by itself.
      if (got.error().code() == Errc::kCancelled || got.error().code() == Errc::kTimeout)
        return std::unexpected(std::move(got).error().context(fmt::format("gate of container {}", id)));
      return std::unexpected(runtime_lost(std::move(got).error()));
    }
    auto& m = got->message;
    if (m.kind == Kind::kStage) {
      TS_LOG_DEBUG("gate id={} stage={} pid={}", id, m.name, m.pid);
      continue;
    }
    if (m.kind == Kind::kFailed) {
      over = true;
      criu_guard.reset();
      return std::unexpected(Error(Errc::kUnavailable, m.reason).with_remedy(m.remedy));
    }
    if (m.kind != wanted) return std::unexpected(runtime_lost(Error(Errc::kPeerProtocol, "it spoke out of turn")));
    if (fd != nullptr) *fd = first_of(std::move(got->fds));
    return std::move(m);
  }
}

Gate::Gate(std::unique_ptr<State> state) : state_(std::move(state)) {}
Gate::Gate(Gate&&) noexcept = default;

Gate& Gate::operator=(Gate&& other) noexcept {
  if (this != &other) {
    Gate old(std::move(*this));
    state_ = std::move(other.state_);
  }
  return *this;
}

Gate::~Gate() {
  if (!state_) return;
  abort("the move ended");
  if (!state_->parked && !state_->cgroup.empty()) remove_cgroup(state_->cgroup);
  remove_gate_dir(state_->dir);
}

Result<Gate> Gate::arm(const std::string& container_id, const GateOptions& options) {
  if (!is_plain_name(container_id)) return fail(Errc::kInvalidArgument, "'{}' is no container id", container_id);
  TS_TRY(sys::make_dirs(options.gates_dir));
  auto dir = options.gates_dir + "/" + container_id;
  std::error_code error;
  bool made = std::filesystem::create_directory(dir, error);
  if (error) return fail_errno(error.value(), "make {}", dir);
  if (!made)
    return std::unexpected(Error(Errc::kAlreadyExists, fmt::format("there is a gate for container {}", container_id))
                               .with_remedy(fmt::format("when no move of it is going on, remove {}", dir)));
  auto state = std::make_unique<State>();
  state->id = container_id;
  state->dir = dir;
  Gate gate(std::move(state));
  std::filesystem::permissions(dir, std::filesystem::perms::owner_all, error);
  json settings = {{"version", kProtocolVersion}, {"hold_ms", options.hold.count()}};
  // The engine's environment is not ours.
  if (!fault::directory().empty()) settings["fault_points"] = fault::directory();
  TS_TRY(sys::write_file_atomic(dir + "/" + kGateSettings, settings.dump()));
  TS_TRY_ASSIGN(gate.state_->listener, listen_at(dir + "/" + kGateSocket));
  return gate;
}

Result<Message> Gate::wait_for_runtime(Deadline deadline, const Cancel& cancel) {
  auto& s = *state_;
  auto socket = accept_one(s.listener.get(), deadline, &cancel);
  if (!socket)
    return std::unexpected(std::move(socket).error().context(
        fmt::format("wait for the engine to call transship-runtime for container {}", s.id)));
  s.runtime = Channel(std::move(*socket));
  s.arrived = true;
  return s.expect(Kind::kWaiting, deadline, cancel, nullptr);
}

Result<> Gate::prepare(const std::string& images_dir, const std::string& work_dir, Deadline deadline,
                       const Cancel& cancel, std::span<const int> files) {
  auto& s = *state_;
  TS_CHECK(s.arrived && !s.over);
  Message order;
  order.kind = Kind::kPrepare;
  order.images_dir = images_dir;
  order.work_dir = work_dir;
  s.criu_directories_before = criu_directories();
  TS_TRY(s.runtime.send(order, files));
  Fd guard;
  TS_TRY_ASSIGN(Message done, s.expect(Kind::kPrepared, deadline, cancel, &guard));
  if (auto kept = s.keep_guard(std::move(done), std::move(guard)); !kept)
    return std::unexpected(s.runtime_lost(std::move(kept).error()));
  return {};
}

Result<Parked> Gate::restore(const RestoreOptions& options, Deadline deadline, const Cancel& cancel) {
  auto& s = *state_;
  TS_CHECK(s.criu_guard.valid() && !s.over);
  Message order;
  order.kind = Kind::kRestore;
  order.lazy = options.lazy;
  order.inherited = options.inherited;
  TS_TRY(s.runtime.send(order));
  Fd netfilter;
  TS_TRY_ASSIGN(Message m, s.expect(Kind::kParked, deadline, cancel, &netfilter));
  s.criu_guard.reset();
  auto start = sys::start_time(m.pid);
  if (!start || !netfilter.valid())
    return std::unexpected(
        s.runtime_lost(Error(Errc::kInternal, fmt::format("process {} is gone right after it was restored", m.pid))));
  Parked parked(std::make_unique<Parked::State>(m.pid, *start, m.cgroup, sys::NftSocket::adopt(std::move(netfilter))));
  if (auto ok = parked.verify(); !ok) return std::unexpected(s.runtime_lost(std::move(ok).error()));
  s.over = true;
  s.parked = true;
  return parked;
}

void Gate::abort(const std::string& reason) {
  auto& s = *state_;
  if (s.over || !s.runtime.open()) return;
  Message order;
  order.kind = Kind::kAbort;
  order.reason = reason;
  auto deadline = Deadline::in(kAbortTime);
  auto told = s.runtime.send(order);
  // Until it says that it has failed, or its connection ends. A container that got parked meanwhile dies as well.
  while (told && !s.over) {
    auto got = s.runtime.receive(deadline);
    if (!got || got->message.kind == Kind::kParked) break;
    if (got->message.kind == Kind::kPrepared)
      (void)s.keep_guard(std::move(got->message), first_of(std::move(got->fds)));
    if (got->message.kind == Kind::kFailed) s.over = true;
  }
  if (!s.over) (void)s.runtime_lost(Error(Errc::kCancelled, reason));
  s.criu_guard.reset();
}

void remove_gate(const std::string& container_id, const std::string& gates_dir) {
  auto dir = gates_dir + "/" + container_id;
  (void)::unlink((dir + "/" + kParkedFile).c_str());
  remove_gate_dir(dir);
}

Result<int> remove_stale_gates(const std::string& gates_dir) {
  std::error_code error;
  int removed = 0;
  for (const auto& entry : std::filesystem::directory_iterator(gates_dir, error)) {
    auto dir = entry.path().string();
    // A parked container whose start has come, or not: adopted or killed by whoever reads the journal.
    if (auto text = sys::read_file(dir + "/" + kParkedFile, 4096)) {
      auto parts = split(trim(*text), ' ');
      auto pid = parse_u64(parts[0], "pid");
      auto start = pid ? sys::start_time(static_cast<pid_t>(*pid)) : Result<uint64_t>(std::unexpected(pid.error()));
      if (parts.size() == 2 && start && std::to_string(*start) == parts[1]) continue;
      (void)::unlink((dir + "/" + kParkedFile).c_str());
    }
    remove_gate_dir(dir);
    removed += std::filesystem::exists(dir) ? 0 : 1;
  }
  if (error && error != std::errc::no_such_file_or_directory) return fail_errno(error.value(), "read {}", gates_dir);
  return removed;
}

}  // namespace transship::gate
