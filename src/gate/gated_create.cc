#include "gate/gated_create.h"

#include <poll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/fault.h"
#include "base/text.h"
#include "criu/log.h"
#include "engine/oci_bundle.h"
#include "gate/criu_leftovers.h"
#include "gate/criu_proxy.h"
#include "gate/criu_role.h"
#include "gate/protocol.h"
#include "gate/standard_streams.h"
#include "sys/cgroup.h"
#include "sys/file.h"
#include "sys/process.h"
#include "sys/search_path.h"

namespace transship::gate {
namespace {

using nlohmann::json;

constexpr milliseconds kDefaultHold{5000};
constexpr milliseconds kMaxHold{600'000};
// After CRIU's end runc only writes two small files.
constexpr milliseconds kRuncEnds{3000};
// Tasks that were killed while they were restored.
constexpr milliseconds kCgroupEmpties{2000};
constexpr std::array<std::string_view, 5> kRuncPlaces = {"/usr/bin/runc", "/usr/sbin/runc", "/usr/local/bin/runc",
                                                         "/usr/local/sbin/runc", "/bin/runc"};

std::string variable(const char* name, const char* otherwise) {
  const char* value = ::secure_getenv(name);
  return value != nullptr && *value != '\0' ? value : otherwise;
}

json settings_of(const std::string& gate_dir) {
  auto text = sys::read_file(gate_dir + "/" + kGateSettings, 65536);
  return text ? json::parse(*text, nullptr, false) : json();
}

milliseconds hold_time(const json& j) {
  if (!j.is_object() || !j.contains("hold_ms") || !j["hold_ms"].is_number_integer()) return kDefaultHold;
  return std::clamp(milliseconds(j["hold_ms"].get<int64_t>()), milliseconds(1), kMaxHold);
}

// The last error that runc logged (JSON lines).
std::string runc_error(const std::string& log_path) {
  auto text = sys::read_file(log_path, 1U << 20);
  if (!text) return {};
  std::string last;
  for (const auto& line : split(*text, '\n')) {
    auto j = json::parse(line, nullptr, false);
    if (j.is_object() && j.value("level", "") == "error" && j.contains("msg") && j["msg"].is_string())
      last = j["msg"].get<std::string>();
  }
  return last;
}

// One create that became a restore.
class GatedCreate {
 public:
  GatedCreate(const CommandLine& line, std::string gate_dir, std::string self)
      : line_(line),
        gate_dir_(std::move(gate_dir)),
        self_(std::move(self)),
        settings_(settings_of(gate_dir_)),
        deadline_(Deadline::in(hold_time(settings_))) {}
  Result<> run();

 private:
  Result<> connect();
  Result<> next_order(Kind wanted);
  Result<> start_runc();
  Result<> meet_criu();
  Result<> restore();
  Result<> end_runc();
  void forget_container();
  void remove_cgroup() const;
  std::optional<Error> word_from_gate();
  Error explain(Error error) const;

  const CommandLine& line_;
  std::string gate_dir_;
  std::string self_;
  json settings_;
  Deadline deadline_;
  Channel gate_;
  std::string images_dir_;
  std::string work_dir_;
  std::string runc_log_;
  Fd listener_;
  sys::Child runc_;
  std::optional<int> runc_code_;  // 128 + signal when it was killed
  bool runc_started_ = false;
  bool known_before_ = false;  // another container of this name: not ours to remove
  bool lazy_ = false;
  std::vector<Fd> files_;  // for CRIU
  std::vector<std::string> inherited_;
  std::vector<std::string> criu_directories_before_;
  std::optional<sys::NftSocket> held_;
  std::optional<CriuProxy> proxy_;
};

Result<> GatedCreate::connect() {
  auto channel = Channel::connect(gate_dir_ + "/" + kGateSocket);
  if (!channel)
    return std::unexpected(
        Error(Errc::kUnavailable,
              fmt::format("container {} is being moved here, but transshipd does not answer: {}; not "
                          "starting a fresh copy",
                          line_.id, channel.error().message()))
            .with_remedy(
                fmt::format("look at the move with `transship moves`; when it is over, remove {}", gate_dir_)));
  gate_ = std::move(*channel);
  Message hello;
  hello.kind = Kind::kWaiting;
  hello.pid = ::getpid();
  hello.id = line_.id;
  hello.bundle = std::filesystem::absolute(line_.bundle).string();
  hello.args = line_.rest;
  return gate_.send(hello);
}

// Waits for `wanted`; abort and everything else is an error.
Result<> GatedCreate::next_order(Kind wanted) {
  auto got = gate_.receive(deadline_);
  if (!got) return std::unexpected(std::move(got).error().context("wait at the gate"));
  const auto& m = got->message;
  if (m.kind == Kind::kAbort)
    return std::unexpected(
        Error(Errc::kCancelled, fmt::format("the move was called off: {}", m.reason)).with_remedy(m.remedy));
  if (m.kind != wanted) return fail(Errc::kPeerProtocol, "transshipd sent the gate an order out of turn");
  if (wanted == Kind::kPrepare) {
    images_dir_ = m.images_dir;
    work_dir_ = m.work_dir;
    runc_log_ = work_dir_ + "/runc.log";
    files_ = std::move(got->fds);
  }
  if (wanted == Kind::kRestore) {
    lazy_ = m.lazy;
    inherited_ = m.inherited;
  }
  return {};
}

Result<> GatedCreate::start_runc() {
  TS_TRY_ASSIGN(auto bundle, engine::load_oci_bundle(line_.bundle));
  if (const auto* network = bundle.find_namespace("network"); network == nullptr || !network->path.empty()) {
    TS_TRY_ASSIGN(held_, hold_network(network == nullptr ? "/proc/self/ns/net" : network->path));
  }
  TS_TRY_ASSIGN(auto runc, real_runtime());
  TS_TRY_ASSIGN(auto criu, sys::find_program("criu"));
  // A directory with us as `criu` and the program beside us as `tar`, first in runc's PATH.
  auto bin = gate_dir_ + "/bin";
  TS_TRY(sys::make_dirs(bin));
  auto tar = std::filesystem::path(self_).replace_filename("transship-tar").string();
  for (const auto& [name, program] : {std::pair("criu", self_), std::pair("tar", tar)}) {
    std::error_code error;
    std::filesystem::create_symlink(program, fmt::format("{}/{}", bin, name), error);
    if (error && error != std::errc::file_exists) return fail_errno(error.value(), "link {}/{}", bin, name);
  }
  auto socket = gate_dir_ + "/criu.sock";
  (void)::unlink(socket.c_str());
  TS_TRY_ASSIGN(listener_, listen_at(socket));
  sys::Child::Options o;
  o.argv = restore_arguments(line_, images_dir_, work_dir_, runc_log_);
  o.argv.insert(o.argv.begin(), runc);
  o.env = {fmt::format("PATH={}:{}", bin, sys::search_path()), fmt::format("{}={}", kRealCriuVariable, criu),
           fmt::format("{}={}", kCriuSocketVariable, socket), fmt::format("{}={}", kImagesVariable, images_dir_),
           fmt::format("{}={}", kWorkVariable, work_dir_)};
  if (bundle.has_own("cgroup")) o.env.push_back(fmt::format("{}=1", kCgroupNamespaceVariable));
  // Ours, or these, become the tasks' own where those were pipes on the source.
  TS_TRY_ASSIGN(auto streams, replace_missing_pipes(images_dir_ + "/descriptors.json", bundle.dir + "/output.log"));
  o.stdin_fd = streams.in.valid() ? streams.in.get() : 0;
  o.stdout_fd = streams.out.get();
  o.stderr_fd = streams.err.get();
  criu_directories_before_ = criu_directories();
  known_before_ = ::access(fmt::format("{}/{}", line_.root, line_.id).c_str(), F_OK) == 0;
  TS_TRY_ASSIGN(runc_, sys::Child::spawn(o));
  runc_started_ = true;
  return {};
}

Result<> GatedCreate::meet_criu() {
  auto connection = accept_one(listener_.get(), deadline_, nullptr, runc_.pidfd());
  if (!connection) return std::unexpected(std::move(connection).error().context("wait for runc to start CRIU"));
  TS_TRY_ASSIGN(auto sockets, receive_criu_sockets(connection->get(), files_));
  files_.clear();
  proxy_.emplace(std::move(sockets), std::move(held_));
  return proxy_->take_request();
}

std::optional<Error> GatedCreate::word_from_gate() {
  auto got = gate_.receive(Deadline::in(milliseconds(0)));
  if (got && got->message.kind == Kind::kAbort)
    return Error(Errc::kCancelled, fmt::format("the move was called off: {}", got->message.reason));
  if (got) return Error(Errc::kPeerProtocol, "transshipd sent the gate an order out of turn");
  return Error(Errc::kUnavailable, fmt::format("transshipd went away: {}", got.error().message()));
}

Result<> GatedCreate::restore() {
  if (lazy_) TS_TRY(proxy_->set_lazy());
  if (!inherited_.empty()) TS_TRY(proxy_->set_inherited(inherited_));
  return proxy_->restore(
      deadline_, gate_.poll_fd(), [this] { return word_from_gate(); },
      [this](const std::string& stage, pid_t pid) {
        Message m;
        m.kind = Kind::kStage;
        m.name = stage;
        m.pid = pid;
        (void)gate_.send(m);  // for the log only; a daemon that is gone shows at the next poll
      });
}

Result<> GatedCreate::end_runc() {
  auto code = runc_.wait(deadline_.sooner(Deadline::in(kRuncEnds)));
  if (!code) return std::unexpected(std::move(code).error().context("wait for the end of runc restore"));
  runc_code_ = *code;
  if (*code != 0) return fail(Errc::kUnavailable, "runc restore ended with code {}: {}", *code, runc_error(runc_log_));
  // Let go by CRIU, a task passes through the kernel once before it is in the freezer's trap; without the CPU for that
  // it does not count as frozen yet.
  TS_TRY_ASSIGN(auto cgroup, sys::Cgroup::at(proxy_->cgroup()));
  TS_TRY(cgroup.freeze(deadline_.sooner(Deadline::in(kRuncEnds))));
  TS_TRY_ASSIGN(auto start, sys::start_time(proxy_->container_pid()));
  return sys::write_file_atomic(gate_dir_ + "/" + kParkedFile, fmt::format("{} {}\n", proxy_->container_pid(), start));
}

// After a restore that failed by itself runc has removed what it had made. Killed it could not, and after one that
// succeeded the container would stay in its list.
void GatedCreate::forget_container() {
  if (!runc_started_ || known_before_) return;
  if (runc_.running()) {
    if (auto code = runc_.wait(Deadline::in(kRuncEnds))) runc_code_ = *code;
    runc_ = sys::Child();
  }
  if (runc_code_ && *runc_code_ > 0 && *runc_code_ < 128) return remove_cgroup();
  auto runc = real_runtime();
  if (!runc) return;
  // The root file system, which runc has mounted there for CRIU; with it the directory could not be removed.
  while (::umount2(fmt::format("{}/{}/criu-root", line_.root, line_.id).c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) {
  }
  sys::Command command;
  command.argv = line_.globals;
  command.argv.insert(command.argv.begin(), *runc);
  command.argv.insert(command.argv.end(), {"delete", "--force", line_.id});
  command.deadline = Deadline::in(kRuncEnds);
  (void)sys::run(command);
  remove_cgroup();
}

// What runc leaves of it: all, of one of which it had written nothing down yet; and where tasks take longer to die than
// the third of a second for which it tries.
void GatedCreate::remove_cgroup() const {
  if (auto bundle = engine::load_oci_bundle(line_.bundle))
    sys::remove_empty_cgroup(bundle->cgroups_path, Deadline::in(kCgroupEmpties));
}

// Adds what CRIU and runc wrote down; not where it was us who ended them.
Error GatedCreate::explain(Error error) const {
  if (work_dir_.empty() || error.code() == Errc::kCancelled || error.code() == Errc::kTimeout) return error;
  std::string remedy = error.remedy();
  std::string message = error.message();
  auto lines = criu::error_lines(work_dir_ + "/restore.log");
  auto said = runc_error(runc_log_);
  if (!lines.empty()) {
    message += ": CRIU says: " + join(lines, "; ");
    if (remedy.empty()) remedy = criu::remedy_for(lines);
  } else if (!said.empty() && message.find(said) == std::string::npos) {
    message += ": runc says: " + said;
  }
  return Error(error.code(), message).with_remedy(remedy);
}

Result<> GatedCreate::run() {
  if (settings_.is_object() && settings_.contains("fault_points") && settings_["fault_points"].is_string())
    TS_TRY(fault::enable(settings_["fault_points"].get<std::string>()));
  TS_TRY(connect());
  auto work = [this]() -> Result<> {
    TS_TRY(fault::at("runtime.waiting"));
    TS_TRY(next_order(Kind::kPrepare));
    TS_TRY(start_runc());
    TS_TRY(meet_criu());
    TS_TRY(fault::at("runtime.prepared"));
    Message prepared;
    prepared.kind = Kind::kPrepared;
    prepared.cgroup = proxy_->cgroup();
    TS_TRY(gate_.send(prepared, std::array{proxy_->criu_socket()}));
    TS_TRY(next_order(Kind::kRestore));
    TS_TRY(fault::at("runtime.restore"));
    TS_TRY(restore());
    TS_TRY(fault::at("runtime.restored"));
    TS_TRY(end_runc());
    Message parked;
    parked.kind = Kind::kParked;
    parked.pid = proxy_->container_pid();
    parked.cgroup = proxy_->cgroup();
    TS_TRY(gate_.send(parked, std::array{proxy_->netfilter_socket()}));
    fault::pass("runtime.parked");
    return {};
  };
  auto result = work();
  if (result) return {};
  if (proxy_) proxy_->kill_all();
  forget_container();
  if (proxy_) remove_criu_directories(criu_directories_before_);
  (void)::unlink((gate_dir_ + "/" + kParkedFile).c_str());
  auto error = explain(std::move(result).error());
  Message failed;
  failed.kind = Kind::kFailed;
  failed.reason = error.message();
  failed.remedy = error.remedy();
  (void)gate_.send(failed);
  return std::unexpected(std::move(error));
}

}  // namespace

std::string gates_dir() { return variable(kGatesDirVariable, kDefaultGatesDir); }

std::string gate_dir_of(const std::string& id) {
  if (!is_plain_name(id)) return {};
  return gates_dir() + "/" + id;
}

Result<std::string> real_runtime() {
  if (auto named = variable("TRANSSHIP_RUNC", ""); !named.empty()) return named;
  if (auto found = sys::find_program("runc")) return found;
  for (auto place : kRuncPlaces) {
    if (::access(std::string(place).c_str(), X_OK) == 0) return std::string(place);
  }
  return std::unexpected(Error(Errc::kNotFound, "transship-runtime passes calls on to runc, and there is no runc here")
                             .with_remedy("install runc, or set TRANSSHIP_RUNC to its path"));
}

Result<> gated_create(const CommandLine& line, const std::string& gate_dir, const std::string& self) {
  return GatedCreate(line, gate_dir, self).run();
}

Result<> gated_start(const CommandLine& line, const std::string& gate_dir) {
  auto file = gate_dir + "/" + kParkedFile;
  auto text = sys::read_file(file, 4096);
  if (!text)
    return std::unexpected(
        Error(Errc::kRefused, fmt::format("container {} is being moved here and is not restored yet; "
                                          "not starting a fresh copy",
                                          line.id))
            .with_remedy("look at the move with `transship moves`"));
  auto parts = split(trim(*text), ' ');
  TS_TRY_ASSIGN(auto pid, parse_u64(parts[0], "pid in " + file));
  auto started = sys::start_time(static_cast<pid_t>(pid));
  if (parts.size() != 2 || !started || std::to_string(*started) != parts[1])
    return fail(Errc::kUnavailable, "container {} was restored as process {}, which has ended since", line.id, pid);
  if (::unlink(file.c_str()) < 0) return fail_errno(errno, "remove {}", file);
  // Ours to remove when the daemon has finished with it before this call came.
  (void)::rmdir(gate_dir.c_str());
  return {};
}

}  // namespace transship::gate
