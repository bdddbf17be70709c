#include "gateway/haproxy.h"

#include <ifaddrs.h>
#include <netinet/in.h>
#include <poll.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <memory>

#include "base/cancel.h"
#include "base/log.h"
#include "base/text.h"
#include "gateway/runtime_api.h"
#include "network/exposure.h"
#include "network/netlink.h"
#include "sys/file.h"
#include "sys/process.h"
#include "sys/search_path.h"

namespace transship::gateway {
namespace {

constexpr milliseconds kStartLimit{5000};
constexpr milliseconds kStartPause{20};
constexpr milliseconds kEndLimit{2000};
constexpr off_t kLongestLog = 256 << 10;
constexpr const char* kServersFollow = "# behind it when it started:\n";

std::string pid_path(const GatewayOptions& o, uint16_t port) { return fmt::format("{}/{}.pid", o.directory, port); }
std::string log_path(const GatewayOptions& o, uint16_t port) { return fmt::format("{}/{}.log", o.directory, port); }

// By its file of a pid; a pid that is somebody else's by now is told by the command line.
Result<Fd> find_process(const GatewayOptions& o, uint16_t port) {
  TS_TRY_ASSIGN(auto text, sys::read_file(pid_path(o, port), 64));
  TS_TRY_ASSIGN(uint64_t pid, parse_u64(trim(text), pid_path(o, port)));
  TS_TRY_ASSIGN(Fd process, sys::pidfd_open(static_cast<pid_t>(pid)));
  TS_TRY_ASSIGN(auto command, sys::read_file(fmt::format("/proc/{}/cmdline", pid), 1U << 16));
  if (!std::ranges::contains(split(command, '\0'), config_path(o, port)) || sys::process_ended(static_cast<pid_t>(pid)))
    return fail(Errc::kNotFound, "process {} is no HAProxy of ours", pid);
  return process;
}

bool ends_within(const Fd& process, milliseconds limit) {
  pollfd p = {process.get(), POLLIN, 0};
  return retry_eintr([&] { return ::poll(&p, 1, static_cast<int>(limit.count())); }) > 0;
}

void send_signal(const Fd& process, int signal) {
  (void)::syscall(SYS_pidfd_send_signal, process.get(), signal, nullptr, 0);
}

std::string last_words(const GatewayOptions& o, uint16_t port) {
  auto text = sys::read_file(log_path(o, port), 4U << 20);
  if (!text || trim(*text).empty()) return "it said nothing";
  auto words = trim(*text);
  return std::string(words.substr(words.size() > 400 ? words.size() - 400 : 0));
}

// It says a line whenever a container goes up or down.
void cut_log(const GatewayOptions& o, uint16_t port) {
  struct stat log{};
  if (::stat(log_path(o, port).c_str(), &log) != 0 || log.st_size <= kLongestLog) return;
  const Fd emptied(::open(log_path(o, port).c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC));
}

// Not root's: who finds a hole in it is nobody. Debian's package makes a user for it.
ProcessUser user_for_it() {
  for (const char* name : {"haproxy", "nobody"}) {
    passwd user = {};
    passwd* found = nullptr;
    std::array<char, 4096> text;
    if (::getpwnam_r(name, &user, text.data(), text.size(), &found) == 0 && found != nullptr)
      return {user.pw_uid, user.pw_gid};
  }
  return {65534, 65534};
}

Result<> make_directories(const GatewayOptions& o) {
  TS_TRY(sys::make_dirs(o.directory, 0700));
  return sys::make_dirs(o.directory + "/empty", 0755);
}

}  // namespace

Result<> check_program(const GatewayOptions& o) {
  if (sys::find_program(o.program)) return {};
  return std::unexpected(Error(Errc::kUnavailable, fmt::format("there is no program {}", o.program))
                             .with_remedy("install haproxy (Debian has a package of that name) on the entry"));
}

Result<> check_port_free(uint16_t port) {
  for (int family : {AF_INET6, AF_INET}) {
    const Fd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd.valid()) continue;
    int no = 0;
    int yes = 1;
    (void)::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    // Connections of one that has just ended are not in the way.
    (void)::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    sockaddr_in6 v6 = {};
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
    sockaddr_in v4 = {};
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    bool is_v6 = family == AF_INET6;
    int bound = is_v6 ? ::bind(fd.get(), reinterpret_cast<sockaddr*>(&v6), sizeof v6)
                      : ::bind(fd.get(), reinterpret_cast<sockaddr*>(&v4), sizeof v4);
    if (bound == 0) return {};
    int e = errno;
    if (e == EADDRINUSE) return fail(Errc::kAlreadyExists, "port {}/tcp is taken: something listens there", port);
    return fail_errno(e, "take port {}/tcp", port);
  }
  return fail_errno(errno, "make a socket");
}

Result<> Haproxy::keep(const std::vector<Backend>& backends) {
  cut_log(options_, entry_.port);
  auto config = haproxy_config(options_, entry_, user_for_it()) + kServersFollow;
  auto written = sys::read_file(config_path(options_, entry_.port));
  bool same = written && written->starts_with(config);
  if (same && process_.valid() && !ends_within(process_, milliseconds(0))) return {};
  auto running = find_process(options_, entry_.port);
  if (running && same) {
    process_ = std::move(*running);
    return {};
  }
  TS_TRY(check_program(options_));
  TS_TRY(make_directories(options_));
  if (!running) TS_TRY(check_port_free(entry_.port));
  return start(config, backends, running ? &*running : nullptr);
}

// As nobody's child: it goes on when we end, and whoever reaps orphans reaps it. The shell writes down its number and
// becomes HAProxy.
Result<> Haproxy::start(const std::string& config, const std::vector<Backend>& backends, const Fd* old) {
  auto port = entry_.port;
  auto old_pid = old != nullptr ? sys::read_file(pid_path(options_, port), 64) : Result<std::string>(std::string());
  TS_TRY(sys::write_file_atomic(config_path(options_, port), config + server_lines(backends)));
  TS_TRY_ASSIGN(Fd words, open_file(log_path(options_, port), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600));
  sys::Child::Options child;
  child.argv = {"setsid",
                "--fork",
                "sh",
                "-c",
                "echo $$ >\"$0\"; exec \"$@\"",
                pid_path(options_, port),
                options_.program,
                "-db",
                "-f",
                config_path(options_, port)};
  // The new one takes the listening socket over, and then the old one ends what it has begun.
  if (old != nullptr && old_pid)
    for (const auto& word :
         {std::string("-x"), socket_path(options_, port), std::string("-sf"), std::string(trim(*old_pid))})
      child.argv.push_back(word);
  else
    (void)::unlink(pid_path(options_, port).c_str());
  child.stdout_fd = words.get();
  child.stderr_fd = words.get();
  child.new_group = false;
  TS_TRY_ASSIGN(auto starter, sys::Child::spawn(child));
  TS_TRY_ASSIGN(int code, starter.wait(Deadline::in(kStartLimit)));
  if (code != 0) return fail(Errc::kUnavailable, "start {}: setsid ended with code {}", options_.program, code);
  TS_TRY_ASSIGN(Cancel never, Cancel::create());
  for (auto deadline = Deadline::in(kStartLimit); !deadline.passed(); (void)sleep_for(kStartPause, never)) {
    auto process = find_process(options_, port);
    if (!process) continue;
    auto info = ask_runtime(socket_path(options_, port), "show info", milliseconds(500));
    auto pid = info ? parse_pid(*info) : Result<uint64_t>(std::unexpected(std::move(info).error()));
    auto written = sys::read_file(pid_path(options_, port), 64);
    if (!pid || !written || std::to_string(*pid) != trim(*written)) continue;
    process_ = std::move(*process);
    return {};
  }
  auto said = last_words(options_, port);
  (void)end_haproxy(options_, port);
  return fail(Errc::kUnavailable, "{} does not start for port {}: {}", options_.program, port, said);
}

Result<std::vector<ServerStatus>> Haproxy::servers() const {
  auto socket = socket_path(options_, entry_.port);
  TS_TRY_ASSIGN(auto states, ask_runtime(socket, fmt::format("show servers state {}", kBackendSection)));
  TS_TRY_ASSIGN(auto statistics, ask_runtime(socket, fmt::format("show stat {} 4 -1", kBackendSection)));
  return parse_servers(states, statistics);
}

Result<> Haproxy::say(const std::vector<std::string>& commands) const {
  Result<> outcome;
  for (const auto& command : commands) {
    TS_TRY_ASSIGN(auto answer, ask_runtime(socket_path(options_, entry_.port), command));
    // One that still has connections can't go: changes() will say so again.
    if (is_success(answer) || command.starts_with("del server ")) continue;
    outcome = fail(Errc::kUnavailable, "HAProxy, asked to {}: {}", command, trim(answer).substr(0, 300));
  }
  return outcome;
}

bool Haproxy::notice_end() {
  if (!process_.valid() || !ends_within(process_, milliseconds(0))) return false;
  auto code = sys::exit_code_of(process_.get());
  process_.reset();
  TS_LOG_WARN("http: {} of port {} ended, {}: {}", options_.program, entry_.port,
              code ? fmt::format("code {}", *code) : "its code is not known", last_words(options_, entry_.port));
  return true;
}

Result<> end_haproxy(const GatewayOptions& o, uint16_t port) {
  if (auto process = find_process(o, port); process) {
    send_signal(*process, SIGTERM);
    if (!ends_within(*process, kEndLimit)) send_signal(*process, SIGKILL);
    if (!ends_within(*process, kEndLimit)) return fail(Errc::kTimeout, "{} does not end, not even killed", o.program);
  }
  for (const auto& path : {config_path(o, port), socket_path(o, port), pid_path(o, port), log_path(o, port)})
    (void)::unlink(path.c_str());
  return {};
}

Result<> remove_directory(const GatewayOptions& o) { return sys::remove_tree(o.directory); }

std::vector<uint16_t> haproxies(const GatewayOptions& o) {
  std::vector<uint16_t> ports;
  std::error_code error;
  for (const auto& file : std::filesystem::directory_iterator(o.directory, error)) {
    if (file.path().extension() != ".cfg") continue;
    auto port = parse_u64(file.path().stem().string(), "a port");
    if (port && *port <= 65535) ports.push_back(static_cast<uint16_t>(*port));
  }
  return ports;
}

// ---- the address

Result<> put_inner_addresses(bool ipv6) {
  TS_TRY_ASSIGN(auto netlink, network::Netlink::open());
  TS_TRY_ASSIGN(unsigned loopback, netlink.link_index("lo"));
  TS_TRY(netlink.put_address(loopback, network::inner_address(true), true));
  if (ipv6) TS_TRY(netlink.put_address(loopback, network::inner_address(false), true));
  return {};
}

bool has_inner_addresses(bool ipv6) {
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return false;
  std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(list, ::freeifaddrs);
  bool v4 = false;
  bool v6 = !ipv6;
  for (const auto* i = list; i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr) continue;
    if (i->ifa_addr->sa_family == AF_INET)
      v4 = v4 || std::memcmp(&reinterpret_cast<const sockaddr_in*>(i->ifa_addr)->sin_addr,
                             network::inner_address(true).data(), 4) == 0;
    if (i->ifa_addr->sa_family == AF_INET6)
      v6 = v6 || std::memcmp(&reinterpret_cast<const sockaddr_in6*>(i->ifa_addr)->sin6_addr,
                             network::inner_address(false).data(), 16) == 0;
  }
  return v4 && v6;
}

Result<> remove_inner_addresses() {
  if (!has_inner_addresses(false)) return {};
  for (bool v4 : {true, false}) {
    auto address = network::inner_address(v4);
    sys::Command c;
    c.argv = {"ip", "address", "del", fmt::format("{}/{}", address.text(), address.bits()), "dev", "lo"};
    c.deadline = Deadline::in(milliseconds(5'000));
    TS_TRY(sys::run(c));  // absent is fine
  }
  return {};
}

}  // namespace transship::gateway
