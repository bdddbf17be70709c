#include "criu/dump_session.h"

#include <sched.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "base/log.h"
#include "criu/log.h"
#include "criu/parent_images.h"
#include "criu/rescue.h"
#include "criu/rpc.h"
#include "criu/shortcuts.h"
#include "sys/cgroup.h"
#include "sys/file.h"
#include "sys/search_path.h"
#include "sys/urgent.h"

namespace transship::criu {
namespace {

constexpr const char* kLogFile = "dump.log";
constexpr const char* kShortcutsFile = "criu-shortcuts";
constexpr const char* kParentLink = "parent";  // CRIU makes it in the images' directory
constexpr milliseconds kRollbackTime{10'000};
constexpr milliseconds kEndTime{2'000};
// CRIU's own limit for getting hold of tasks that stand still already. Its default is 10 s, during which clients wait.
constexpr uint32_t kSeizeSeconds = 2;
// Between two attempts to freeze: a new program is loaded in less.
constexpr milliseconds kVforkTime{2};
// Several of a throttle's cycles.
constexpr milliseconds kPauseTime{200};

// Which notification CRIU waits in; that is what we may answer.
enum class Phase { kPreDump, kBusy, kPostDump, kEnded };

milliseconds since(Clock::time_point start) { return std::chrono::duration_cast<milliseconds>(Clock::now() - start); }

// Has a thread that waits uninterruptibly.
bool uninterruptible(pid_t pid) {
  std::error_code error;
  auto tasks = std::filesystem::directory_iterator(fmt::format("/proc/{}/task", pid), error);
  for (; !error && tasks != end(tasks); tasks.increment(error)) {
    auto stat = sys::read_file(tasks->path().string() + "/stat", 4096);
    if (!stat) continue;
    auto name_end = stat->rfind(')');
    if (name_end != std::string::npos && stat->compare(name_end, 3, ") D") == 0) return true;
  }
  return false;
}

bool has_parent(MemoryMethod method) { return method == MemoryMethod::kParent || method == MemoryMethod::kSoftDirty; }

Result<Worker> spawn_worker(const DumpOptions& o) {
  Worker::Options how;
  how.nice = sys::kUrgentNice;
  if (o.memory == MemoryMethod::kParent) {
    how.lay_over = {o.work_dir + "/criu.kdat", kKdatFile};
    TS_TRY_CTX(write_patched_kdat(o.kdat, how.lay_over.first), "show CRIU a kernel that tracks memory");
  }
  if (!o.tar.empty()) {
    auto bin = o.work_dir + "/bin";
    TS_TRY(sys::make_dirs(bin));
    if (::symlink(o.tar.c_str(), (bin + "/tar").c_str()) != 0 && errno != EEXIST)
      return fail_errno(errno, "link {}/tar", bin);
    how.env.push_back(fmt::format("PATH={}:{}", bin, sys::search_path()));
  }
  if (!o.preload.empty()) {
    TS_TRY_ASSIGN(auto environment, shortcut_environment(o.preload, o.work_dir + "/" + kShortcutsFile));
    std::ranges::move(environment, std::back_inserter(how.env));
  }
  return Worker::spawn(o.criu, how);
}

// Nothing of it is ever asked for anything: see rollback() and commit().
Result<> limit_lazy_server(rpc::Options* opts, const std::string& work_dir) {
  opts->set_lazy_pages(true);
  opts->mutable_ps()->set_port(0);
  // In the request CRIU overlooks the address, and listens on all of the host's.
  auto config = work_dir + "/criu.conf";
  TS_TRY(sys::write_file_atomic(config, "address 127.0.0.1\n"));
  opts->set_config_file(config);
  return {};
}

rpc::Request dump_request(const DumpOptions& o, const std::string& cgroup, int images_fd, int work_fd) {
  rpc::Request request;
  request.set_type(rpc::DUMP);
  auto* opts = request.mutable_opts();
  opts->set_images_dir_fd(images_fd);
  opts->set_work_dir_fd(work_fd);
  opts->set_pid(o.pid);
  opts->set_root(o.root);
  opts->set_log_level(o.log_level);
  opts->set_log_file(kLogFile);
  opts->set_notify_scripts(true);
  opts->set_tcp_established(true);
  opts->set_tcp_skip_in_flight(o.skip_in_flight);
  opts->set_file_locks(true);
  opts->set_link_remap(true);
  opts->set_ghost_limit(o.ghost_limit);
  opts->set_orphan_pts_master(true);
  // The destination's engine makes cgroup and network namespace; CRIU saves neither.
  opts->set_manage_cgroups_mode(rpc::CGROUP_IGNORE);
  opts->set_empty_ns(CLONE_NEWNET);
  opts->set_network_lock(o.lock_network ? rpc::NETWORK_LOCK_NFTABLES : rpc::NETWORK_LOCK_SKIP);
  opts->set_freeze_cgroup(cgroup);
  opts->set_timeout(kSeizeSeconds);
  for (const auto& [inside, name] : o.external_mounts) {
    auto* mount = opts->add_ext_mnt();
    mount->set_key(inside);
    mount->set_val(name);
  }
  for (const auto& external : o.externals) opts->add_external(external);
  return request;
}

}  // namespace

namespace {

// A throttle freezes for moments only (sys/throttle.h); what is paused stays frozen.
Result<bool> paused(const sys::Cgroup& cgroup, const Cancel& cancel) {
  auto deadline = Deadline::in(kPauseTime);
  while (true) {
    TS_TRY_ASSIGN(bool frozen, cgroup.frozen());
    if (!frozen || deadline.passed()) return frozen;
    TS_TRY(sleep_for(milliseconds(1), cancel));
  }
}

}  // namespace

struct DumpSession::State {
  DumpOptions options;
  sys::Cgroup cgroup;
  Worker worker;
  Fd images;  // CRIU opens them through /proc/<our pid>/fd
  Fd work;
  std::optional<ParentImages> parent;
  Phase phase = Phase::kBusy;
  bool frozen_by_us = false;
  bool kept = false;  // keep_frozen()

  std::string log_path() const { return options.work_dir + "/" + kLogFile; }
  Error from_log(Errc code, std::string_view fallback) const {
    return error_from_log(code, fmt::format("dump process {}", options.pid), log_path(), fallback);
  }
  Result<> advance_to(std::string_view notification, Deadline deadline, const Cancel* cancel);
  Result<> freeze_seizable(Deadline deadline);
  Result<> cover_memory() const;
  void worker_lost();
  void leave_frozen();
  Result<> thaw_and_verify(Deadline deadline);
};

// Lets CRIU go on until it announces `notification` (which is not answered). Failure: CRIU has given up or is gone.
Result<> DumpSession::State::advance_to(std::string_view notification, Deadline deadline, const Cancel* cancel) {
  while (true) {
    auto response = worker.receive(deadline, cancel);
    if (!response) {
      worker_lost();
      auto error = std::move(response).error();
      if (error.code() != Errc::kUnavailable) return std::unexpected(std::move(error));
      return std::unexpected(from_log(Errc::kUnavailable, error.message()));
    }
    if (response->type() != rpc::NOTIFY) {
      phase = Phase::kEnded;
      worker.finish(Deadline::in(kEndTime));
      return std::unexpected(
          from_log(Errc::kUnavailable, fmt::format("CRIU gave up (errno {})", response->cr_errno())));
    }
    if (response->notify().script() == notification) return {};
    // Comes on the way back from a lazy dump, before CRIU serves pages to whoever asks: it is not to begin with that.
    bool go_on = response->notify().script() != "status-ready";
    if (auto r = worker.answer_notify(go_on); !r) {
      worker_lost();
      return std::unexpected(from_log(Errc::kUnavailable, r.error().message()));
    }
  }
}

// Freezes at a moment in which no task is starting another one by vfork. The freezer counts such a parent as standing
// still, though it waits for its child in a way that ptrace cannot interrupt: CRIU would wait for it in vain.
Result<> DumpSession::State::freeze_seizable(Deadline deadline) {
  TS_TRY_ASSIGN(auto never, Cancel::create());
  while (true) {
    TS_TRY(cgroup.freeze(deadline));
    TS_TRY_ASSIGN(auto pids, cgroup.processes());
    if (std::ranges::none_of(pids, uninterruptible)) return {};
    TS_TRY(cgroup.thaw(deadline));
    if (deadline.passed())
      return std::unexpected(Error(Errc::kTimeout, fmt::format("freeze {}: at every attempt a task was just starting "
                                                               "another one (vfork)",
                                                               cgroup.path()))
                                 .with_remedy("try again"));
    TS_TRY(sleep_for(kVforkTime, never));
  }
}

// Requires frozen tasks, and CRIU before its first look at them.
Result<> DumpSession::State::cover_memory() const {
  if (!parent) return {};
  TS_TRY_ASSIGN(auto pids, cgroup.processes());
  TS_TRY(parent->cover_tasks(pids));
  if (options.memory != MemoryMethod::kSoftDirty) return {};
  for (pid_t pid : pids) TS_TRY(sys::write_control(fmt::format("/proc/{}/clear_refs", pid), "4"));
  return {};
}

// CRIU is gone, or must go because it does not answer. Its tracees are let go by the kernel: keep them standing until
// the network is open again.
void DumpSession::State::worker_lost() {
  bool may_have_locked = phase != Phase::kPreDump && frozen_by_us;
  phase = Phase::kEnded;
  if (may_have_locked) (void)cgroup.freeze(Deadline::in(kEndTime));
  worker.kill();
  worker.finish(Deadline::in(kEndTime));
  if (!may_have_locked) return;
  auto pids = cgroup.processes();
  auto opened = open_network_again(options.pid, pids ? *pids : std::vector<pid_t>{});
  if (!opened) TS_LOG_ERROR("criu died during a dump pid={} network_reopen={}", options.pid, opened.error().message());
}

// CRIU goes without a chance to give anything back; the cgroup's freeze holds the tasks after it.
void DumpSession::State::leave_frozen() {
  if (phase != Phase::kPostDump) return;
  phase = Phase::kEnded;
  if (auto r = cgroup.freeze(Deadline::in(kEndTime)); !r) {
    TS_LOG_ERROR("pid={} {}: ending what must not run here", options.pid, r.error().message());
    (void)cgroup.kill_all();
  }
  worker.kill();
  worker.finish(Deadline::in(kEndTime));
}

Result<> DumpSession::State::thaw_and_verify(Deadline deadline) {
  if (!frozen_by_us) return {};
  TS_TRY_CTX(cgroup.thaw(deadline), "give the container back");
  frozen_by_us = false;
  if (sys::process_ended(options.pid))
    return fail(Errc::kInternal, "process {} ended while it was being dumped", options.pid);
  return {};
}

DumpSession::DumpSession(std::unique_ptr<State> state) : state_(std::move(state)) {}
DumpSession::DumpSession(DumpSession&&) noexcept = default;

DumpSession& DumpSession::operator=(DumpSession&& other) noexcept {
  if (this == &other) return *this;
  if (state_ && state_->kept)
    state_->leave_frozen();
  else if (state_)
    (void)rollback(Deadline::in(kRollbackTime));
  state_ = std::move(other.state_);
  return *this;
}

DumpSession::~DumpSession() {
  if (!state_) return;
  if (state_->kept) {
    state_->leave_frozen();
    return;
  }
  if (auto r = rollback(Deadline::in(kRollbackTime)); !r)
    TS_LOG_ERROR("dump not rolled back cleanly pid={} error={}", state_->options.pid, r.error().message());
}

Result<DumpSession> DumpSession::start(const DumpOptions& options, const Cancel& cancel, Deadline deadline) {
  TS_TRY_ASSIGN(auto cgroup, sys::Cgroup::of_process(options.pid));
  TS_TRY_ASSIGN(bool is_paused, paused(cgroup, cancel));
  if (is_paused)
    return std::unexpected(Error(Errc::kRefused, fmt::format("the container of process {} is paused", options.pid))
                               .with_remedy("unpause it first"));
  TS_TRY_ASSIGN(Fd images, open_file(options.images_dir, O_RDONLY | O_DIRECTORY));
  TS_TRY_ASSIGN(Fd work, open_file(options.work_dir, O_RDONLY | O_DIRECTORY));
  auto request = dump_request(options, cgroup.path(), images.get(), work.get());
  std::optional<ParentImages> parent;
  if (has_parent(options.memory)) {
    TS_TRY_ASSIGN(parent, ParentImages::create(options.work_dir + "/parent"));
    request.mutable_opts()->set_track_mem(true);
    request.mutable_opts()->set_parent_img(parent->path());
  }
  if (options.memory == MemoryMethod::kLazyPages) TS_TRY(limit_lazy_server(request.mutable_opts(), options.work_dir));
  TS_TRY_ASSIGN(auto worker, spawn_worker(options));
  TS_TRY(worker.send(request));
  DumpSession session(std::make_unique<State>(options, std::move(cgroup), std::move(worker), std::move(images),
                                              std::move(work), std::move(parent)));
  TS_TRY(session.state_->advance_to("pre-dump", deadline, &cancel));
  session.state_->phase = Phase::kPreDump;
  return session;
}

Result<DumpTimes> DumpSession::dump(const Cancel& cancel, Deadline deadline) {
  TS_CHECK(state_ && state_->phase == Phase::kPreDump);
  auto& s = *state_;
  auto failed = [&](Error error) -> Result<DumpTimes> {
    auto undone = rollback(Deadline::in(kRollbackTime));
    if (undone) return std::unexpected(std::move(error));
    return fail(error.code(), "{}; and then: {}", error.message(), undone.error().message());
  };
  TS_TRY(cancel.check());
  DumpTimes times;
  auto start = Clock::now();
  s.frozen_by_us = true;
  if (auto r = s.freeze_seizable(deadline.sooner(Deadline::in(s.options.freeze_timeout))); !r)
    return failed(std::move(r).error());
  times.freeze = since(start);
  auto frozen_at = Clock::now();
  if (auto r = s.cover_memory(); !r) return failed(std::move(r).error());
  s.phase = Phase::kBusy;
  if (auto r = s.worker.answer_notify(true); !r) {
    s.worker_lost();
    return failed(std::move(r).error());
  }
  // Not cancellable between here and the images: a CRIU killed in the middle is much harder to undo than one that ends.
  if (auto r = s.advance_to("post-dump", deadline, nullptr); !r) return failed(std::move(r).error());
  s.phase = Phase::kPostDump;
  // CRIU has thawed the cgroup and holds the tasks by ptrace alone. Frozen again, they stand still even if it dies.
  if (auto r = s.cgroup.freeze(deadline.sooner(Deadline::in(s.options.freeze_timeout))); !r)
    return failed(std::move(r).error());
  times.images = since(frozen_at);
  if (auto used = read_shortcuts(s.options.work_dir + "/" + kShortcutsFile)) times.shortcuts = *used;
  // Where the images are restored there is no such directory.
  if (s.parent) (void)::unlinkat(s.images.get(), kParentLink, 0);
  if (auto r = cancel.check(); !r) return failed(std::move(r).error());
  return times;
}

Result<> DumpSession::commit(Deadline deadline) {
  TS_CHECK(state_ && state_->phase == Phase::kPostDump);
  auto& s = *state_;
  s.phase = Phase::kEnded;
  // From here on the tasks must end, whatever happens to CRIU. They are frozen, so they cannot do anything meanwhile.
  if (s.options.memory == MemoryMethod::kLazyPages) {
    // Told to go on it would wait for somebody to fetch pages. Dead tasks cannot be let go by the end of their tracer.
    (void)s.cgroup.kill_all();
    s.worker.kill();
    s.worker.finish(deadline.sooner(Deadline::in(kEndTime)));
  } else {
    auto told = s.worker.answer_notify(true);
    auto answer = told ? s.worker.receive(deadline) : Result<rpc::Response>(std::unexpected(told.error()));
    s.worker.finish(deadline.sooner(Deadline::in(kEndTime)));
    if (!answer || !answer->success())
      TS_LOG_WARN("criu did not confirm the end of the tasks pid={}: killing them ourselves", s.options.pid);
  }
  s.frozen_by_us = false;
  TS_TRY_ASSIGN(auto never, Cancel::create());
  while (true) {
    // The engine removes the cgroup of a dead container: then it is empty as well.
    if (!std::filesystem::exists(s.cgroup.path())) return {};
    auto populated = s.cgroup.populated();
    if (populated && !*populated) return {};
    (void)s.cgroup.kill_all();
    if (deadline.passed())
      return fail(Errc::kTimeout, "the tasks in {} did not die; they are frozen and stay so", s.cgroup.path());
    TS_TRY(sleep_for(milliseconds(2), never));
  }
}

void DumpSession::keep_frozen() {
  TS_CHECK(state_ && state_->phase == Phase::kPostDump);
  state_->kept = true;
}

Result<> DumpSession::rollback(Deadline deadline) {
  if (!state_) return {};
  auto& s = *state_;
  if (s.kept) return fail(Errc::kRefused, "give process {} back: it belongs to another host", s.options.pid);
  if (s.phase == Phase::kPreDump || s.phase == Phase::kPostDump) {
    // CRIU takes a refusal as an order to put everything back; it announces network-unlock on the way.
    if (s.worker.answer_notify(false))
      (void)s.advance_to("", deadline, nullptr);
    else
      s.worker_lost();
  } else if (s.phase == Phase::kBusy) {
    s.worker_lost();
  }
  s.phase = Phase::kEnded;
  return s.thaw_and_verify(deadline);
}

}  // namespace transship::criu
