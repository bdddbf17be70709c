#include "network/tunnel_link.h"

#include <openssl/crypto.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <csignal>

#include "base/cancel.h"
#include "base/text.h"
#include "sys/file.h"
#include "sys/process.h"
#include "sys/search_path.h"

namespace transship::network {
namespace {

// Where wg looks for interfaces that are not the kernel's.
constexpr const char* kSocketDir = "/var/run/wireguard";
constexpr const char* kProgram = "wireguard-go";
constexpr milliseconds kWgLimit{10'000};
constexpr milliseconds kStartLimit{5000};
constexpr milliseconds kStartPause{10};
constexpr milliseconds kEndLimit{3000};

std::string socket_of(const std::string& name) { return fmt::format("{}/{}.sock", kSocketDir, name); }

// Nothing: nobody listens there.
Fd connect_to(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return {};
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return {};
  return fd;
}

bool ends_within(int process, milliseconds limit) {
  pollfd p = {process, POLLIN, 0};
  return retry_eintr([&] { return ::poll(&p, 1, static_cast<int>(limit.count())); }) > 0;
}

void send_signal(int process, int signal) { (void)::syscall(SYS_pidfd_send_signal, process, signal, nullptr, 0); }

// As nobody's child: it goes on when we end, and whoever reaps orphans reaps it.
Result<> spawn_wireguard_go(const std::string& name, const std::string& log) {
  TS_TRY(sys::make_dirs(kSocketDir));
  TS_TRY_ASSIGN(Fd words, open_file(log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600));
  sys::Child::Options options;
  options.argv = {"setsid", "--fork", kProgram, "-f", name};
  options.env = {"LOG_LEVEL=error", "WG_PROCESS_FOREGROUND=1"};
  options.stdout_fd = words.get();
  options.stderr_fd = words.get();
  options.new_group = false;
  TS_TRY_ASSIGN(auto child, sys::Child::spawn(options));
  TS_TRY_ASSIGN(int code, child.wait(Deadline::in(kStartLimit)));
  if (code != 0) return fail(Errc::kUnavailable, "start {}: setsid ended with code {}", kProgram, code);
  return {};
}

Result<TunnelLink> start_wireguard_go(Netlink& netlink, const std::string& name, const std::string& log) {
  if (!sys::find_program(kProgram))
    return std::unexpected(
        Error(Errc::kKernelFeatureMissing, "this kernel has no WireGuard, and there is no program wireguard-go")
            .with_remedy("install wireguard-go (Debian has a package of that name), or a kernel with WireGuard"));
  TS_TRY(spawn_wireguard_go(name, log));
  TS_TRY_ASSIGN(Cancel never, Cancel::create());
  for (auto deadline = Deadline::in(kStartLimit); !deadline.passed(); (void)sleep_for(kStartPause, never)) {
    if (!connect_to(socket_of(name)).valid()) continue;
    auto link = find_tunnel_link(netlink, name);
    if (link || link.error().code() != Errc::kNotFound) return link;
  }
  return fail(Errc::kTimeout, "start {} for {}: it does not answer on {} after {} ms; its words: {}", kProgram, name,
              socket_of(name), kStartLimit.count(), last_words(log));
}

Result<> end_wireguard_go(const std::string& name) {
  auto process = find_wireguard_go(name);
  if (!process && process.error().code() != Errc::kNotFound) return std::unexpected(std::move(process).error());
  if (process) {
    send_signal(process->get(), SIGTERM);
    if (!ends_within(process->get(), kEndLimit)) send_signal(process->get(), SIGKILL);
    if (!ends_within(process->get(), kEndLimit))
      return fail(Errc::kTimeout, "{} of {} does not end, not even killed", kProgram, name);
  }
  (void)::unlink(socket_of(name).c_str());
  (void)::rmdir(kSocketDir);  // only when there are no others
  return {};
}

}  // namespace

// By its own socket.
Result<Fd> find_wireguard_go(const std::string& name) {
  Fd connection = connect_to(socket_of(name));
  ucred who = {};
  socklen_t size = sizeof who;
  if (!connection.valid() || ::getsockopt(connection.get(), SOL_SOCKET, SO_PEERCRED, &who, &size) != 0)
    return fail(Errc::kNotFound, "nobody listens on {}", socket_of(name));
  TS_TRY_ASSIGN(Fd process, sys::pidfd_open(who.pid));
  TS_TRY_ASSIGN(std::string program, sys::read_file(fmt::format("/proc/{}/comm", who.pid), 64));
  if (trim(program) != kProgram)
    return fail(Errc::kAlreadyExists, "{} is served by {}, not by {}", socket_of(name), trim(program), kProgram);
  return process;
}

std::string last_words(const std::string& log) {
  auto text = sys::read_file(log, 1U << 20);
  if (!text || trim(*text).empty()) return "it said nothing";
  auto words = trim(*text);
  return std::string(words.substr(words.size() > 500 ? words.size() - 500 : 0));
}

std::string_view backend_name(TunnelBackend backend) {
  switch (backend) {
    case TunnelBackend::kKernel: return "kernel";
    case TunnelBackend::kWireguardGo: return "wireguard-go";
    case TunnelBackend::kNone: break;
  }
  return "none";
}

Result<TunnelLink> find_tunnel_link(Netlink& netlink, const std::string& name) {
  auto index = netlink.link_index(name);
  if (!index) return fail(Errc::kNotFound, "there is no interface {}", name);
  TS_TRY_ASSIGN(std::string kind, netlink.link_kind(*index));
  if (kind == "wireguard") return TunnelLink{TunnelBackend::kKernel, *index};
  if (kind == "tun" && find_wireguard_go(name)) return TunnelLink{TunnelBackend::kWireguardGo, *index};
  return std::unexpected(
      Error(Errc::kAlreadyExists,
            fmt::format("there is an interface {} already, not of WireGuard (kind \"{}\")", name, kind))
          .with_remedy("give the tunnel another name: tunnel.interface in the configuration"));
}

Result<TunnelLink> make_tunnel_link(Netlink& netlink, const std::string& name, bool kernel, const std::string& log) {
  if (!kernel) return start_wireguard_go(netlink, name, log);
  auto made = netlink.make_link(name, "wireguard");
  if (made) return find_tunnel_link(netlink, name);
  if (made.error().sys_errno() == EOPNOTSUPP) return start_wireguard_go(netlink, name, log);
  return std::unexpected(std::move(made).error());
}

Result<> remove_tunnel_link(Netlink& netlink, const std::string& name) {
  auto link = find_tunnel_link(netlink, name);
  if (!link && link.error().code() != Errc::kNotFound) return std::unexpected(std::move(link).error());
  // Also where the interface is gone: the process may be on its way.
  if (!link || link->backend == TunnelBackend::kWireguardGo) TS_TRY(end_wireguard_go(name));
  if (link) TS_TRY(netlink.remove_link(link->index));
  return {};
}

Result<> allow_any_source(Netlink& netlink, const std::string& interface) {
  TS_TRY_ASSIGN(unsigned index, netlink.link_index(interface));
  TS_TRY_ASSIGN(auto dummy, IpAddress::parse("192.0.0.8"));
  TS_TRY(netlink.put_address(index, dummy, true));
  // The greater of the two counts.
  TS_TRY_ASSIGN(auto all, sys::read_file("/proc/sys/net/ipv4/conf/all/rp_filter", 64));
  return sys::write_control(fmt::format("/proc/sys/net/ipv4/conf/{}/rp_filter", interface),
                            trim(all) == "0" ? "0" : "2");
}

Result<> check_wg() {
  if (sys::find_program("wg")) return {};
  return std::unexpected(Error(Errc::kKernelFeatureMissing, "there is no program wg, which configures WireGuard")
                             .with_remedy("install wireguard-tools (Debian has a package of that name)"));
}

Result<WgState> read_wg(const std::string& name) {
  sys::Command c;
  c.argv = {"wg", "show", name, "dump"};
  c.deadline = Deadline::in(kWgLimit);
  // NB: not run_ok(), which may quote the output: the secret key is in it.
  auto shown = sys::run(c);
  if (!shown) return std::unexpected(std::move(shown).error());
  Result<WgState> state;
  if (shown->exit_code == 0)
    state = parse_wg_dump(shown->out);
  else
    state = fail(Errc::kUnavailable, "wg show {}: {}", name, trim(shown->err).substr(0, 500));
  OPENSSL_cleanse(shown->out.data(), shown->out.size());
  return state;
}

Result<> write_wg(const std::string& name, const WgChange& change, const TunnelKey& key, uint16_t port) {
  for (const auto& gone : change.remove) {
    sys::Command c;
    c.argv = {"wg", "set", name, "peer", gone.text(), "remove"};
    c.deadline = Deadline::in(kWgLimit);
    TS_TRY(sys::run_ok(c));
  }
  if (!change.interface && change.put.empty()) return {};
  sys::Command c;
  c.argv = {"wg", "addconf", name, "/dev/stdin"};
  c.input = wg_config(change, key.secret_text(), port);
  c.deadline = Deadline::in(kWgLimit);
  auto done = sys::run(c);
  OPENSSL_cleanse(c.input.data(), c.input.size());
  if (!done) return std::unexpected(std::move(done).error());
  // What it cannot read it quotes, and that may be the key's line: our own text is right, so only the error counts.
  if (done->exit_code != 0)
    return fail(Errc::kUnavailable, "wg addconf {}: code {}: {}", name, done->exit_code,
                change.interface ? "its words are left out, they may hold the key" : trim(done->err).substr(0, 500));
  return {};
}

}  // namespace transship::network
