#include "names/dns_server.h"

#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "base/cancel.h"
#include "base/log.h"
#include "base/text.h"
#include "names/probe.h"
#include "network/netlink.h"
#include "sys/file.h"
#include "sys/nft_table.h"
#include "sys/process.h"
#include "sys/search_path.h"

namespace transship::names {
namespace {

constexpr const char* kTable = "transship_names";
constexpr milliseconds kStartLimit{3000};
constexpr milliseconds kStartPause{20};
constexpr milliseconds kEndLimit{2000};
constexpr unsigned kMtu = 1500;
constexpr unsigned kQueueLength = 1000;
constexpr off_t kLongestLog = 256 << 10;

std::string config_path(const DnsServerOptions& o) { return o.directory + "/dnsmasq.conf"; }
std::string hosts_path(const DnsServerOptions& o) { return o.directory + "/hosts"; }
std::string upstream_path(const DnsServerOptions& o) { return o.directory + "/upstream.conf"; }
std::string pid_path(const DnsServerOptions& o) { return o.directory + "/pid"; }
std::string log_path(const DnsServerOptions& o) { return o.directory + "/log"; }

bool has_text(const std::string& path, std::string_view text) {
  auto now = sys::read_file(path);
  return now && *now == text;
}

Result<> put_file(const std::string& path, std::string_view text) {
  return has_text(path, text) ? Result<>() : sys::write_file_atomic(path, text, 0644);
}

// By its file of a pid; a pid that is somebody else's by now is told by the command line.
Result<Fd> find_process(const DnsServerOptions& options) {
  TS_TRY_ASSIGN(auto text, sys::read_file(pid_path(options), 64));
  TS_TRY_ASSIGN(uint64_t pid, parse_u64(trim(text), pid_path(options)));
  TS_TRY_ASSIGN(Fd process, sys::pidfd_open(static_cast<pid_t>(pid)));
  TS_TRY_ASSIGN(auto command, sys::read_file(fmt::format("/proc/{}/cmdline", pid), 1U << 16));
  if (!std::ranges::contains(split(command, '\0'), "--conf-file=" + config_path(options)) ||
      sys::process_ended(static_cast<pid_t>(pid)))
    return fail(Errc::kNotFound, "process {} is no server of ours", pid);
  return process;
}

void send_signal(const Fd& process, int signal) {
  (void)::syscall(SYS_pidfd_send_signal, process.get(), signal, nullptr, 0);
}

bool ends_within(const Fd& process, milliseconds limit) {
  pollfd p = {process.get(), POLLIN, 0};
  return retry_eintr([&] { return ::poll(&p, 1, static_cast<int>(limit.count())); }) > 0;
}

Result<> end_process(const DnsServerOptions& options) {
  auto process = find_process(options);
  if (!process) return {};
  send_signal(*process, SIGTERM);
  if (!ends_within(*process, kEndLimit)) send_signal(*process, SIGKILL);
  if (ends_within(*process, kEndLimit)) return {};
  return fail(Errc::kTimeout, "{} does not end, not even killed", options.program);
}

std::string last_words(const DnsServerOptions& options) {
  auto text = sys::read_file(log_path(options), 4U << 20);
  if (!text || trim(*text).empty()) return "it said nothing";
  auto words = trim(*text);
  return std::string(words.substr(words.size() > 300 ? words.size() - 300 : 0));
}

// It says a line each time it reads the records.
void cut_log(const DnsServerOptions& options) {
  struct stat log{};
  if (::stat(log_path(options).c_str(), &log) != 0 || log.st_size <= kLongestLog) return;
  const Fd emptied(::open(log_path(options).c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC));
}

// Not root's: who finds a hole in it is nobody. Debian's package makes a user for it.
std::string user_for_it() { return ::getpwnam("dnsmasq") != nullptr ? "dnsmasq" : "nobody"; }

// A dummy where the kernel has them; a bridge without ports does the same.
Result<unsigned> find_or_make_link(network::Netlink& netlink, const std::string& name) {
  if (auto index = netlink.link_index(name); index) {
    TS_TRY_ASSIGN(auto kind, netlink.link_kind(*index));
    if (kind == "dummy" || kind == "bridge") return *index;
    return fail(Errc::kAlreadyExists, "there is an interface {} already, of kind \"{}\": not ours", name, kind);
  }
  auto made = netlink.make_link(name, "dummy");
  if (!made && made.error().sys_errno() == EOPNOTSUPP) made = netlink.make_link(name, "bridge");
  if (!made) return std::unexpected(std::move(made).error());
  return netlink.link_index(name);
}

Result<> set_firewall(const DnsServerOptions& options) {
  TS_TRY_ASSIGN(auto nft, sys::NftSocket::open_in_netns_of(0));
  TS_TRY_ASSIGN(bool there, nft.has(kTable));
  if (there) return {};
  sys::Command c;
  c.argv = {"nft", "-f", "-"};
  c.input = firewall_script(options);
  c.deadline = Deadline::in(milliseconds(10'000));
  TS_TRY_CTX(sys::run_ok(c), "firewall rules of the DNS server");
  return {};
}

}  // namespace

std::string dnsmasq_config(const DnsServerOptions& o, std::string_view user) {
  std::string out = "# Written by transshipd, and written again when it changes.\n";
  for (const auto& a : o.addresses) out += fmt::format("listen-address={}\n", a.text());
  // Nothing of the host's own: its names are its resolver's affair.
  return out + fmt::format(
                   "bind-interfaces\nno-hosts\naddn-hosts={}\nresolv-file={}\nlocal=/{}/\n"
                   "local-ttl=1\npid-file={}\nuser={}\nkeep-in-foreground\nlog-facility=-\n",
                   hosts_path(o), upstream_path(o), o.domain, pid_path(o), user);
}

// For this host and its containers. A neighbour on the wire could send to the address as well, and a host answers to
// all of its addresses on every interface.
std::string firewall_script(const DnsServerOptions& o) {
  std::string rules;
  for (const auto& a : o.addresses) {
    const char* family = a.is_v4() ? "ip" : "ip6";
    rules += fmt::format(
        "{0} daddr {1} iif lo accept\n"
        "{0} daddr {1} meta iifkind {{ \"bridge\", \"veth\", \"dummy\", \"macvlan\", \"ipvlan\" }} accept\n"
        "{0} daddr {1} drop\n",
        family, a.text());
  }
  return fmt::format(
      "table inet {0}\ndelete table inet {0}\ntable inet {0} {{\nchain input {{ type filter hook input priority "
      "filter - 5; policy accept;\n{1}}}\n}}\n",
      kTable, rules);
}

bool DnsServer::lacks_interface() const { return ::if_nametoindex(options_.interface.c_str()) == 0; }

Result<> DnsServer::make_interface() {
  TS_TRY_ASSIGN(auto netlink, network::Netlink::open());
  TS_TRY_ASSIGN(unsigned link, find_or_make_link(netlink, options_.interface));
  // No address of the kernel's making on it.
  auto ipv6 = fmt::format("/proc/sys/net/ipv6/conf/{}/", options_.interface);
  (void)sys::write_control(ipv6 + "addr_gen_mode", "1");
  (void)sys::write_control(ipv6 + "disable_ipv6", "0");
  TS_TRY(netlink.set_link_up(link, kMtu, kQueueLength));
  for (const auto& a : options_.addresses) TS_TRY(netlink.put_address(link, a));
  return set_firewall(options_);
}

Result<> DnsServer::keep() {
  MutexLock lock(mu_);
  if (!sys::find_program(options_.program))
    return std::unexpected(Error(Errc::kUnavailable, fmt::format("there is no program {}", options_.program))
                               .with_remedy("install dnsmasq-base (Debian has a package of that name)"));
  TS_TRY(sys::make_dirs(options_.directory, 0755));
  // Our umask may have taken it away.
  if (::chmod(options_.directory.c_str(), 0755) != 0) return fail_errno(errno, "chmod {}", options_.directory);
  auto config = dnsmasq_config(options_, user_for_it());
  if (!has_text(config_path(options_), config)) {
    TS_TRY(end_process(options_));
    process_.reset();
    if (auto netlink = network::Netlink::open(); netlink) {
      if (auto old = netlink->link_index(options_.interface); old) (void)netlink->remove_link(*old);
    }
    if (auto nft = sys::NftSocket::open_in_netns_of(0); nft) (void)nft->remove(kTable);
    TS_TRY(put_file(config_path(options_), config));
  }
  TS_TRY(make_interface());
  if (process_.valid() && !ends_within(process_, milliseconds(0))) return {};
  if (auto running = find_process(options_); running) {
    process_ = std::move(*running);
    return {};
  }
  return start();
}

// As nobody's child: it goes on when we end, and whoever reaps orphans reaps it.
Result<> DnsServer::start() {
  for (const auto& path : {hosts_path(options_), upstream_path(options_)})
    if (::access(path.c_str(), F_OK) != 0) TS_TRY(sys::write_file_atomic(path, "", 0644));
  (void)::unlink(pid_path(options_).c_str());
  TS_TRY_ASSIGN(Fd words, open_file(log_path(options_), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600));
  sys::Child::Options child;
  child.argv = {"setsid", "--fork", options_.program, "--conf-file=" + config_path(options_)};
  child.stdout_fd = words.get();
  child.stderr_fd = words.get();
  child.new_group = false;
  TS_TRY_ASSIGN(auto starter, sys::Child::spawn(child));
  TS_TRY_ASSIGN(int code, starter.wait(Deadline::in(kStartLimit)));
  if (code != 0) return fail(Errc::kUnavailable, "start {}: setsid ended with code {}", options_.program, code);
  if (auto up = wait_until_it_answers(); !up) {
    (void)end_process(options_);
    return std::unexpected(
        Error(Errc::kUnavailable, fmt::format("{} does not start: {}", options_.program, last_words(options_)))
            .with_remedy(fmt::format("if another DNS server listens on all addresses (ss -lunp sport = :53), let it "
                                     "leave out {}",
                                     options_.addresses.front().text())));
  }
  TS_TRY_ASSIGN(process_, find_process(options_));
  return {};
}

Result<> DnsServer::wait_until_it_answers() const {
  TS_TRY_ASSIGN(Cancel never, Cancel::create());
  Result<> answered;
  for (auto deadline = Deadline::in(kStartLimit); !deadline.passed(); (void)sleep_for(kStartPause, never)) {
    if (!find_process(options_)) continue;
    answered = probe_dns(options_.addresses.front(), options_.domain, milliseconds(200));
    if (answered) return answered;
  }
  return fail(Errc::kTimeout, "no answer");
}

Result<> DnsServer::publish(const std::string& hosts) {
  MutexLock lock(mu_);
  if (has_text(hosts_path(options_), hosts)) return {};
  TS_TRY(sys::write_file_atomic(hosts_path(options_), hosts, 0644));
  if (!process_.valid()) return {};
  cut_log(options_);
  send_signal(process_, SIGHUP);
  return {};
}

Result<> DnsServer::set_upstream(const std::vector<std::string>& nameservers) {
  std::string text;
  for (const auto& a : nameservers) text += "nameserver " + a + "\n";
  MutexLock lock(mu_);
  if (text == upstream_) return {};
  TS_TRY(put_file(upstream_path(options_), text));  // it looks itself whether the file has changed
  upstream_ = std::move(text);
  return {};
}

bool DnsServer::notice_end() {
  MutexLock lock(mu_);
  if (!process_.valid() || !ends_within(process_, milliseconds(0))) return false;
  auto code = sys::exit_code_of(process_.get());
  process_.reset();
  TS_LOG_WARN("names: {} ended, {}: {}", options_.program,
              code ? fmt::format("code {}", *code) : "its code is not known", last_words(options_));
  return true;
}

Result<> take_dns_server_down(const DnsServerOptions& options) {
  if (::access(options.directory.c_str(), F_OK) != 0) return {};
  TS_TRY(end_process(options));
  TS_TRY_ASSIGN(auto netlink, network::Netlink::open());
  if (auto link = netlink.link_index(options.interface); link) TS_TRY(netlink.remove_link(*link));
  TS_TRY_ASSIGN(auto nft, sys::NftSocket::open_in_netns_of(0));
  TS_TRY(nft.remove(kTable));
  return sys::remove_tree(options.directory);
}

}  // namespace transship::names
