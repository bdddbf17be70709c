#include "wire/endpoint.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>

#include "base/text.h"
#include "sys/process.h"
#include "wire/tls.h"

namespace transship::wire {
namespace {

// What may become an argument of the resolver: a host name or an address (with a scope).
bool is_host(std::string_view host) {
  if (host.empty() || host.size() > 253 || host[0] == '-') return false;
  return std::ranges::all_of(host, [](unsigned char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' ||
           c == '_' || c == ':' || c == '%';
  });
}

Result<std::vector<SocketAddress>> numeric(const std::string& host, uint16_t port) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* list = nullptr;
  int rc = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list);
  if (rc != 0) return fail(Errc::kInvalidArgument, "{} is not an address: {}", host, ::gai_strerror(rc));
  std::vector<SocketAddress> out;
  for (addrinfo* a = list; a != nullptr; a = a->ai_next) {
    SocketAddress address;
    std::memcpy(&address.storage, a->ai_addr, a->ai_addrlen);
    address.length = a->ai_addrlen;
    out.push_back(address);
  }
  ::freeaddrinfo(list);
  return out;
}

std::unexpected<Error> connect_error(int e) {
  return std::unexpected(Error(errc_from_errno(e), errno_text(e)).with_errno(e));
}

// The error says why, and not where: the caller knows which addresses there are.
Result<Fd> connect_one(const SocketAddress& address, Deadline deadline, const Cancel& cancel) {
  Fd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return fail_errno(errno, "make a socket");
  int rc = ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.length);
  if (rc != 0 && errno != EINPROGRESS && errno != EINTR) return connect_error(errno);
  if (auto r = wait_writable(fd.get(), cancel, deadline, "connect"); !r) {
    if (r.error().code() == Errc::kTimeout) return fail(Errc::kTimeout, "no answer in time");
    return std::unexpected(std::move(r).error());
  }
  int error = 0;
  socklen_t length = sizeof error;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &length) != 0) error = errno;
  if (error != 0) return connect_error(error);
  return fd;
}

template <class Call>
Result<Endpoint> name_of(int fd, Call call, std::string_view what) {
  SocketAddress address;
  address.length = sizeof address.storage;
  if (call(fd, reinterpret_cast<sockaddr*>(&address.storage), &address.length) != 0)
    return fail_errno(errno, "ask for the {} address of a connection", what);
  return to_endpoint(address);
}

}  // namespace

Result<Endpoint> parse_endpoint(std::string_view text, bool port_zero) {
  auto wrong = [&](std::string_view why) {
    return fail(Errc::kInvalidArgument, "\"{}\" is not an address ({}): write HOST, HOST:PORT or [IPV6]:PORT",
                text.substr(0, 300), why);
  };
  Endpoint endpoint;
  std::string_view rest;
  if (text.starts_with('[')) {
    size_t close = text.find(']');
    if (close == std::string_view::npos) return wrong("no closing bracket");
    endpoint.host = text.substr(1, close - 1);
    if (endpoint.host.find(':') == std::string::npos) return wrong("no IPv6 address in the brackets");
    rest = text.substr(close + 1);
  } else if (std::ranges::count(text, ':') > 1) {
    endpoint.host = text;  // a bare IPv6 address: its last group is never taken for a port
  } else {
    size_t colon = text.find(':');
    endpoint.host = text.substr(0, colon);
    if (colon != std::string_view::npos) rest = text.substr(colon);
  }
  if (!is_host(endpoint.host)) return wrong("no host name or address");
  if (endpoint.host.find(':') != std::string::npos && !numeric(endpoint.host, 0)) return wrong("no IPv6 address");
  if (rest.empty()) return endpoint;
  if (!rest.starts_with(':')) return wrong("text after the bracket");
  auto port = parse_u64(rest.substr(1), "port");
  if (!port || *port > 65535 || (*port == 0 && !port_zero)) return wrong("a port is a number from 1 to 65535");
  endpoint.port = static_cast<uint16_t>(*port);
  return endpoint;
}

std::string to_text(const Endpoint& endpoint) {
  if (endpoint.host.find(':') != std::string::npos) return fmt::format("[{}]:{}", endpoint.host, endpoint.port);
  return fmt::format("{}:{}", endpoint.host, endpoint.port);
}

Endpoint to_endpoint(const SocketAddress& address) {
  char host[NI_MAXHOST] = "?";
  char port[NI_MAXSERV] = "0";
  (void)::getnameinfo(reinterpret_cast<const sockaddr*>(&address.storage), address.length, host, sizeof host, port,
                      sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
  std::string_view text = host;
  constexpr std::string_view kMapped = "::ffff:";
  if (text.starts_with(kMapped) && text.find('.') != std::string_view::npos) text.remove_prefix(kMapped.size());
  auto number = parse_u64(port, "port");
  return {std::string(text), static_cast<uint16_t>(number.value_or(0))};
}

Result<std::vector<SocketAddress>> resolve(const Endpoint& endpoint, Deadline deadline, const Cancel& cancel) {
  if (!is_host(endpoint.host)) return fail(Errc::kInvalidArgument, "\"{}\" is not a host", endpoint.host);
  if (auto direct = numeric(endpoint.host, endpoint.port)) return direct;
  // getaddrinfo() can neither be cancelled nor be given a deadline; a child can be killed.
  auto found = sys::run({.argv = {"getent", "ahosts", endpoint.host}, .deadline = deadline}, &cancel);
  if (!found) return std::unexpected(std::move(found).error().context(fmt::format("look up {}", endpoint.host)));
  std::vector<SocketAddress> out;
  std::vector<std::string> seen;
  for (const auto& line : split(found->out, '\n')) {
    std::string address = line.substr(0, line.find(' '));
    if (address.empty() || std::ranges::find(seen, address) != seen.end()) continue;
    seen.push_back(address);
    auto one = numeric(address, endpoint.port);
    if (one) out.insert(out.end(), one->begin(), one->end());
  }
  if (out.empty())
    return std::unexpected(Error(Errc::kNotFound, fmt::format("no address is known for the host {}", endpoint.host))
                               .with_remedy("check its name, this node's resolver, or use an address"));
  return out;
}

Result<Fd> connect_tcp(const Endpoint& endpoint, Deadline deadline, const Cancel& cancel) {
  TS_TRY_ASSIGN(auto addresses, resolve(endpoint, deadline, cancel));
  std::string reasons;
  Errc code = Errc::kUnavailable;
  for (size_t i = 0; i < addresses.size(); ++i) {
    // A fair share each, so that one dead address does not use up the time of the others.
    auto share = deadline.remaining() / static_cast<long>(addresses.size() - i);
    auto fd = connect_one(addresses[i], deadline.sooner(Deadline::in(share)), cancel);
    if (fd || fd.error().code() == Errc::kCancelled) return fd;
    code = fd.error().code();
    std::string where = to_text(to_endpoint(addresses[i]));
    reasons += reasons.empty() ? "" : "; ";
    // A host given by its address has been named already.
    reasons += where == to_text(endpoint) ? fd.error().message() : where + ": " + fd.error().message();
  }
  return std::unexpected(
      Error(code == Errc::kTimeout ? Errc::kTimeout : Errc::kUnavailable,
            fmt::format("connect to {}: {}", to_text(endpoint), reasons))
          .with_remedy(fmt::format("is transshipd running there, and may port {} be reached?", endpoint.port)));
}

Result<Endpoint> remote_endpoint(int fd) { return name_of(fd, ::getpeername, "remote"); }
Result<Endpoint> local_endpoint(int fd) { return name_of(fd, ::getsockname, "local"); }

Result<Fingerprint> probe_fingerprint(const Endpoint& endpoint, Deadline deadline, const Cancel& cancel) {
  TS_TRY_ASSIGN(Fd tcp, connect_tcp(endpoint, deadline, cancel));
  return probe_over(std::move(tcp), to_text(endpoint), deadline, cancel);
}

}  // namespace transship::wire
