#include "wire/listener.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <list>
#include <map>

#include "base/log.h"
#include "base/mutex.h"
#include "base/thread.h"

namespace transship::wire {
namespace {

constexpr int kBacklog = 64;

// From when a connection is accepted until its thread has been joined.
struct Connection {
  Connection(Cancel signal, Endpoint from) : cancel(std::move(signal)), remote(std::move(from)) {}
  Cancel cancel;
  Endpoint remote;
  std::string peer;   // set once it is known, under the listener's mutex
  bool over = false;  // likewise
  Thread thread;
};

Result<Fd> listen_on(const Endpoint& endpoint) {
  TS_TRY_ASSIGN(Cancel never, Cancel::create());
  TS_TRY_ASSIGN(auto addresses, resolve(endpoint, Deadline::in(milliseconds(5'000)), never));
  const SocketAddress& address = addresses.front();
  Fd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return fail_errno(errno, "make a socket for {}", to_text(endpoint));
  int one = 1;
  int zero = 0;
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0) return fail_errno(errno, "SO_REUSEADDR");
  if (address.storage.ss_family == AF_INET6 &&
      ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero) != 0)
    return fail_errno(errno, "IPV6_V6ONLY");
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.length) != 0) {
    auto error = fail_errno(errno, "listen on {}", to_text(endpoint));
    if (error.error().sys_errno() != EADDRINUSE) return error;
    return std::unexpected(std::move(error).error().with_remedy(
        "another transshipd, or another program, has that port: ss -ltnp shows which"));
  }
  if (::listen(fd.get(), kBacklog) != 0) return fail_errno(errno, "listen on {}", to_text(endpoint));
  return fd;
}

// IPv6 hosts usually have a whole /64 to themselves.
std::string source_of(const SocketAddress& address) {
  if (address.storage.ss_family != AF_INET6) return to_endpoint(address).host;
  sockaddr_in6 v6;
  std::memcpy(&v6, &address.storage, sizeof v6);
  if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) return to_endpoint(address).host;
  return {reinterpret_cast<const char*>(&v6.sin6_addr), 8};
}

}  // namespace

struct Listener::State {
  State(ListenerOptions o, Identity i, PinLookup p, ConnectionHandler h, Cancel e)
      : options(std::move(o)),
        identity(std::move(i)),
        pins(std::move(p)),
        handler(std::move(h)),
        ending(std::move(e)) {}
  const ListenerOptions options;
  const Identity identity;
  const PinLookup pins;
  const ConnectionHandler handler;
  Cancel ending;
  Fd socket;
  Fd ended;  // eventfd: a connection is over, its thread can be joined
  Endpoint address;
  Mutex mu;
  std::list<Connection> connections GUARDED_BY(mu);
  std::map<std::string, unsigned> sources GUARDED_BY(mu);  // handshakes from each
  ListenerCounters counters GUARDED_BY(mu);
  Thread acceptor;  // also joins the connections' threads

  void run();
  void accept_one();
  void admit(Fd fd, const SocketAddress& from);
  void serve(Connection& connection, Fd fd, const std::string& source);
  bool authenticated(Connection& connection, const Result<TlsStream>& stream, const std::string& source);
  void over(Connection& connection, bool was_authenticated);
  void join_ended();
};

void Listener::State::run() {
  while (!ending.cancelled()) {
    pollfd p[3] = {{ending.poll_fd(), POLLIN, 0}, {ended.get(), POLLIN, 0}, {socket.get(), POLLIN, 0}};
    if (::poll(p, 3, -1) < 0 && errno != EINTR) {
      TS_LOG_ERROR("listener={} stops: poll: {}", to_text(address), errno_text(errno));
      return;
    }
    if (p[1].revents != 0) join_ended();
    if (p[2].revents != 0) accept_one();
  }
}

void Listener::State::accept_one() {
  SocketAddress from;
  from.length = sizeof from.storage;
  int raw =
      ::accept4(socket.get(), reinterpret_cast<sockaddr*>(&from.storage), &from.length, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (raw >= 0) return admit(Fd(raw), from);
  if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM) return;
  // The connection stays in the backlog, and poll would report it again at once.
  TS_LOG_WARN("listener={} cannot accept: {}", to_text(address), errno_text(errno));
  (void)sleep_for(milliseconds(200), ending);
}

void Listener::State::admit(Fd fd, const SocketAddress& from) {
  auto cancel = Cancel::create();
  std::string source = source_of(from);
  MutexLock lock(mu);
  unsigned& of_source = sources[source];
  bool full = counters.handshakes >= options.max_handshakes || of_source >= options.max_handshakes_per_source;
  if (full || !cancel) {
    if (of_source == 0) sources.erase(source);
    ++counters.turned_away;
    return;
  }
  ++of_source;
  ++counters.handshakes;
  Connection& c = connections.emplace_back(std::move(*cancel), to_endpoint(from));
  c.thread = Thread("peer", [this, &c, source, raw = fd.release()] { serve(c, Fd(raw), source); });
}

bool Listener::State::authenticated(Connection& connection, const Result<TlsStream>& stream,
                                    const std::string& source) {
  MutexLock lock(mu);
  --counters.handshakes;
  if (--sources[source] == 0) sources.erase(source);
  if (!stream) {
    ++(stream.error().code() == Errc::kUnauthorized ? counters.unauthorized : counters.failed);
    return false;
  }
  if (counters.connections >= options.max_connections) {
    ++counters.turned_away;
    return false;
  }
  ++counters.accepted;
  ++counters.connections;
  connection.peer = stream->peer_name();
  return true;
}

void Listener::State::serve(Connection& connection, Fd fd, const std::string& source) {
  std::string remote = to_text(connection.remote);
  auto stream = TlsStream::server(std::move(fd), identity, pins, remote, Deadline::in(options.handshake_limit),
                                  connection.cancel);
  bool in = authenticated(connection, stream, source);
  if (in) {
    // It may have been unpinned between the look-up and now; from here on drop_peer() finds the connection.
    auto still = pins(stream->peer_fingerprint());
    if (still == stream->peer_name()) {
      std::string name = stream->peer_name();
      handler(Accepted{std::move(*stream), std::move(name), connection.remote}, connection.cancel);
    }
  } else if (!stream && stream.error().code() != Errc::kCancelled) {
    TS_LOG_DEBUG("listener={} refused: {}", to_text(address), stream.error().message());
  }
  over(connection, in);
}

void Listener::State::over(Connection& connection, bool was_authenticated) {
  {
    MutexLock lock(mu);
    if (was_authenticated) --counters.connections;
    connection.over = true;
  }
  uint64_t one = 1;
  (void)!::write(ended.get(), &one, sizeof one);
}

void Listener::State::join_ended() {
  uint64_t count = 0;
  (void)!::read(ended.get(), &count, sizeof count);
  std::list<Connection> done;
  {
    MutexLock lock(mu);
    for (auto it = connections.begin(); it != connections.end();) {
      auto next = std::next(it);
      if (it->over) done.splice(done.end(), connections, it);
      it = next;
    }
  }
  // Joined here, without the mutex.
}

Listener::Listener(std::unique_ptr<State> state) : state_(std::move(state)) {}

Result<std::unique_ptr<Listener>> Listener::start(const ListenerOptions& options, Identity identity, PinLookup pins,
                                                  ConnectionHandler handler) {
  TS_TRY_ASSIGN(Cancel ending, Cancel::create());
  auto state =
      std::make_unique<State>(options, std::move(identity), std::move(pins), std::move(handler), std::move(ending));
  TS_TRY_ASSIGN(state->socket, listen_on(options.address));
  TS_TRY_ASSIGN(state->address, local_endpoint(state->socket.get()));
  state->ended.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!state->ended.valid()) return fail_errno(errno, "eventfd");
  state->acceptor = Thread("listener", [s = state.get()] { s->run(); });
  return std::unique_ptr<Listener>(new Listener(std::move(state)));
}

Listener::~Listener() { stop(); }

const Endpoint& Listener::address() const { return state_->address; }

void Listener::drop_peer(const std::string& peer) {
  MutexLock lock(state_->mu);
  for (auto& c : state_->connections) {
    if (c.peer == peer) c.cancel.cancel(fmt::format("{} is no longer a peer", peer));
  }
}

void Listener::stop() {
  State& s = *state_;
  s.ending.cancel("the listener stops");
  s.acceptor.join();
  {
    MutexLock lock(s.mu);
    for (auto& c : s.connections) c.cancel.cancel("this node stops");
  }
  std::list<Connection> rest;
  {
    MutexLock lock(s.mu);
    rest.swap(s.connections);
  }
  rest.clear();  // joins
  s.socket.reset();
}

ListenerCounters Listener::counters() const {
  MutexLock lock(state_->mu);
  return state_->counters;
}

}  // namespace transship::wire
