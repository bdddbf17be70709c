#include "node/names_keeper.h"

#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "base/text.h"
#include "base/wall_clock.h"
#include "node/said_names.h"
#include "sys/file.h"

namespace transship::node {
namespace {

using names::NamedContainer;

constexpr milliseconds kTick{1'000};
constexpr milliseconds kKeepEvery{30'000};
constexpr milliseconds kRetryEvery{5'000};
constexpr milliseconds kResolverEvery{5'000};
// Peers hear all of it anew this often, so that a lost word does no harm for long.
constexpr milliseconds kTellEvery{30'000};
constexpr milliseconds kFirstPause{1'000};
constexpr milliseconds kLongestPause{60'000};
constexpr milliseconds kTellLimit{5'000};
// Where a container has gone is heard within a second, or its node is not there.
constexpr milliseconds kLeavingLimit{10'000};
// And then by all.
constexpr milliseconds kHeardLimit{1'000};

}  // namespace

// One peer's thread; a peer that does not answer keeps no other from hearing.
struct NamesKeeper::Teller {
  Teller(std::string name, Cancel cancel) : peer(std::move(name)), stop(std::move(cancel)) {}
  const std::string peer;
  Cancel stop;
  std::string problem = {};  // of its thread
  Thread thread = {};        // last: is joined before the rest goes
};

NamesKeeper::NamesKeeper(migrate::Services& services, const migrate::Placements& placements,
                         const NamesOptions& options, Cancel stop)
    : services_(services),
      placements_(placements),
      options_(options),
      stop_(std::move(stop)),
      server_(options.server),
      resolver_(options.resolver),
      directory_(services.settings.node) {}

Result<std::unique_ptr<NamesKeeper>> NamesKeeper::start(migrate::Services& services,
                                                        const migrate::Placements& placements,
                                                        const NamesOptions& options) {
  TS_TRY_ASSIGN(Cancel stop, Cancel::create());
  std::unique_ptr<NamesKeeper> keeper(new NamesKeeper(services, placements, options, std::move(stop)));
  if (!options.enabled) {
    keeper->trouble_ = "switched off in the configuration (names.enabled)";
    if (auto r = keeper->resolver_.remove(); !r) TS_LOG_ERROR("names: {}", r.error().message());
    if (auto r = names::take_dns_server_down(options.server); !r) TS_LOG_ERROR("names: {}", r.error().message());
    (void)::unlink(options.memory_file.c_str());
    return keeper;
  }
  keeper->load();
  keeper->thread_ = Thread("names", [k = keeper.get()] { k->run(); });
  TS_TRY_ASSIGN(keeper->containers_,
                ContainerNames::start(services, placements, [k = keeper.get()](const auto& all, const auto& left) {
                  k->take_own(all, left);
                }));
  return keeper;
}

NamesKeeper::~NamesKeeper() {
  containers_.reset();
  {
    MutexLock lock(mu_);
    stop_.cancel("the daemon ends");
    woken_.notify_all();
  }
  thread_.join();
  for (auto& [name, teller] : tellers_) {
    MutexLock lock(mu_);
    teller->stop.cancel("the daemon ends");
    woken_.notify_all();
  }
  tellers_.clear();
}

// So that names of peers resolve at once after a restart.
void NamesKeeper::load() {
  auto text = sys::read_file(options_.memory_file);
  if (!text) return;
  MutexLock lock(mu_);
  if (auto r = directory_.load_json(*text, unix_ms_now()); !r)
    TS_LOG_WARN("names: {}: {}", options_.memory_file, r.error().message());
}

void NamesKeeper::changed_locked() {
  dirty_ = true;
  woken_.notify_all();
}

void NamesKeeper::take_own(const std::vector<NamedContainer>& all, const std::vector<NamedContainer>& left) {
  MutexLock lock(mu_);
  own_ = all;
  for (const auto& c : left) {
    leaving_.push_back({c, Deadline::in(kLeavingLimit)});
    leaving_.back().container.leaving = true;
  }
  put_own_locked();
  if (own_version_ == 0) own_version_ = 1;  // asked, and there is nothing
}

void NamesKeeper::put_own_locked() {
  std::erase_if(leaving_, [&](Leaving& l) {
    if (directory_.has_moved(l.container)) l.until = l.until.sooner(Deadline::in(kHeardLimit));
    bool back = std::ranges::any_of(own_, [&](const auto& c) { return c.addresses == l.container.addresses; });
    return l.until.passed() || back;
  });
  auto now = own_;
  for (const auto& l : leaving_) now.push_back(l.container);
  // Since when is known here already.
  for (const auto& b : directory_.of(services_.settings.node))
    for (auto& c : now)
      if (b.home == c.home && b.home_id == c.home_id && b.name == c.name) c.since_ms = b.since_ms;
  if (!directory_.put(services_.settings.node, now, unix_ms_now())) return;
  ++own_version_;
  changed_locked();
}

// ---- what peers say

// A node speaks for the containers that it has. Of one that is at home here this node knows who has it.
std::string NamesKeeper::refusal(const state::Peer& peer, const NamedContainer& c) const {
  if (auto wrong = names::complaint(c); !wrong.empty()) return wrong;
  auto own = services_.identity.fingerprint().text();
  if (c.home != own) return {};
  auto placed = placements_.find(own + "/" + c.home_id);
  if (!placed || placed->role != migrate::PlacedRole::kAway) return "it is at home here, and is not away";
  if (placed->peer == peer.name || placed->next == peer.fingerprint) return {};
  return fmt::format("it is at home here, and {} has it", placed->peer);
}

// Its last host has not noticed yet that it has left.
bool NamesKeeper::just_came_home(const NamedContainer& c) const {
  auto own = services_.identity.fingerprint().text();
  auto placed = c.home == own ? placements_.find(own + "/" + c.home_id) : std::nullopt;
  return placed && placed->back;
}

std::vector<std::string> NamesKeeper::learn(const std::string& peer, const state::Peer& known,
                                            const google::protobuf::RepeatedPtrField<peer::NamedContainer>& said) {
  std::vector<NamedContainer> all;
  std::vector<std::string> refused;
  // What it has would be taken for ours.
  if (peer == services_.settings.node) return {"any name: it is called as we are"};
  for (const auto& one : said) {
    if (all.size() + refused.size() == names::kMaxNames) {
      refused.push_back(fmt::format("more than {} names", names::kMaxNames));
      break;
    }
    auto c = from_proto(one, known.fingerprint);
    if (c && just_came_home(*c)) continue;
    auto why = c ? refusal(known, *c) : c.error().message();
    if (why.empty())
      all.push_back(std::move(*c));
    else
      refused.push_back(fmt::format("{}: {}", is_plain_name(one.name()) ? one.name() : "a name", why));
  }
  MutexLock lock(mu_);
  if (refused_[peer] != refused)
    for (const auto& one : refused) TS_LOG_WARN("names: refused: {} says that it has {}", peer, one);
  refused_[peer] = refused;
  if (directory_.put(peer, all, unix_ms_now())) changed_locked();
  return refused;
}

void NamesKeeper::own_names(google::protobuf::RepeatedPtrField<peer::NamedContainer>& out) const {
  MutexLock lock(mu_);
  for (const auto& c : directory_.of(services_.settings.node)) to_proto(c, *out.Add());
}

Result<peer::Reply> NamesKeeper::answer(const std::string& peer, const peer::NamesRequest& request) {
  if (!options_.enabled) return fail(Errc::kRefused, "node {} has no names: {}", services_.settings.node, trouble_);
  TS_TRY_ASSIGN(auto known, services_.store->peer(peer));
  {
    MutexLock lock(mu_);
    if (silent_.erase(peer) > 0) woken_.notify_all();
  }
  peer::Reply reply;
  auto& names = *reply.mutable_names();
  for (auto& one : learn(peer, known, request.names())) names.add_refused(std::move(one));
  own_names(*names.mutable_names());
  return reply;
}

Result<> NamesKeeper::tell(const std::string& peer, const Cancel& cancel) {
  TS_TRY_ASSIGN(wire::PeerTarget target, services_.peer(peer));
  TS_TRY_ASSIGN(auto known, services_.store->peer(peer));
  auto deadline = Deadline::in(kTellLimit);
  TS_TRY_ASSIGN(auto session,
                wire::Session::connect(services_.identity, target, services_.settings.node, deadline, cancel));
  peer::Request request;
  own_names(*request.mutable_names()->mutable_names());
  TS_TRY_ASSIGN(peer::Reply reply, session->call(request, deadline, cancel));
  (void)learn(peer, known, reply.names().names());
  for (const auto& one : reply.names().refused()) TS_LOG_DEBUG("names: {} does not believe us: {}", peer, one);
  return {};
}

void NamesKeeper::tell_in_turn(Teller& t) {
  milliseconds pause = kFirstPause;
  while (!t.stop.cancelled()) {
    uint64_t said = 0;
    {
      MutexLock lock(mu_);
      said = own_version_;
    }
    // Not before the engines have been asked: an empty list would take our names away.
    auto told = said == 0 ? Result<>() : tell(t.peer, t.stop);
    std::string problem = told ? "" : told.error().message();
    if (!problem.empty() && problem != t.problem) TS_LOG_DEBUG("names: tell {}: {}", t.peer, problem);
    t.problem = problem;
    pause = told ? kFirstPause : std::min(pause * 2, kLongestPause);
    auto until = Deadline::in(told ? kTellEvery : pause);
    MutexLock lock(mu_);
    if (!told) silent_.insert(t.peer);
    // What changes while it does not answer waits until it does, or comes by itself.
    auto nothing_new = [&] { return told ? own_version_ == said : silent_.contains(t.peer); };
    while (!t.stop.cancelled() && !until.passed() && nothing_new()) woken_.wait_until(mu_, until.at());
  }
}

// ---- the keeper's thread

void NamesKeeper::run() {
  while (!stop_.cancelled()) {
    keep_server();
    keep_resolver();
    keep_peers();
    publish();
    MutexLock lock(mu_);
    auto until = Deadline::in(kTick);
    while (!dirty_ && !stop_.cancelled() && !until.passed()) woken_.wait_until(mu_, until.at());
  }
}

void NamesKeeper::keep_server() {
  if (!server_.notice_end() && !server_.lacks_interface() && !next_keep_.passed()) return;
  {
    MutexLock lock(mu_);
    if (!trouble_.empty() && !next_keep_.passed()) return;  // it has failed a moment ago
  }
  auto kept = server_.keep();
  next_keep_ = Deadline::in(kept ? kKeepEvery : kRetryEvery);
  std::string trouble = kept ? "" : kept.error().message();
  MutexLock lock(mu_);
  if (trouble == trouble_) return;
  if (trouble.empty())
    TS_LOG_INFO("names: {} answers on {}", options_.server.program, options_.server.addresses.front().text());
  else
    TS_LOG_WARN("names: {} {}", trouble, kept.error().remedy());
  trouble_ = trouble;
  remedy_ = kept ? "" : kept.error().remedy();
  dirty_ = true;
}

void NamesKeeper::keep_resolver() {
  if (!next_resolver_.passed()) return;
  next_resolver_ = Deadline::in(kResolverEvery);
  if (auto r = server_.set_upstream(resolver_.upstream()); !r) TS_LOG_DEBUG("names: {}", r.error().message());
  {
    MutexLock lock(mu_);
    if (!trouble_.empty()) return;  // nobody answers there
  }
  if (auto r = resolver_.keep(); !r) TS_LOG_WARN("names: {}", r.error().message());
}

void NamesKeeper::publish() {
  std::string hosts;
  std::string memory;
  {
    MutexLock lock(mu_);
    for (const auto& peer : directory_.expire(unix_ms_now())) {
      TS_LOG_WARN("names: nothing was heard from {} for long: its names go", peer);
      dirty_ = true;
    }
    if (!leaving_.empty()) put_own_locked();
    if (!dirty_) return;
    dirty_ = false;
    hosts = names::hosts_text(directory_.rows(), options_.server.domain);
    memory = directory_.to_json();
  }
  if (auto r = server_.publish(hosts); !r) TS_LOG_DEBUG("names: {}", r.error().message());
  if (auto r = sys::write_file_atomic(options_.memory_file, memory); !r) TS_LOG_WARN("names: {}", r.error().message());
}

void NamesKeeper::keep_peers() {
  auto peers = services_.store->peers();
  if (!peers) return;
  std::erase_if(tellers_, [&](auto& entry) {
    if (std::ranges::contains(*peers, entry.first, &state::Peer::name)) return false;
    MutexLock lock(mu_);
    entry.second->stop.cancel("it is a peer no more");
    woken_.notify_all();
    return true;
  });
  for (const auto& peer : *peers) {
    if (peer.address.empty() || tellers_.contains(peer.name)) continue;  // one without an address asks us
    auto stop = Cancel::create();
    if (!stop) continue;
    auto& teller = tellers_[peer.name] = std::make_unique<Teller>(peer.name, std::move(*stop));
    teller->thread = Thread("names-tell", [this, t = teller.get()] { tell_in_turn(*t); });
  }
  MutexLock lock(mu_);
  for (const auto& node : directory_.nodes()) {
    if (node == services_.settings.node || std::ranges::contains(*peers, node, &state::Peer::name)) continue;
    refused_.erase(node);
    if (directory_.drop(node)) dirty_ = true;
  }
}

// ---- for people

local::NamesState NamesKeeper::state() const {
  local::NamesState s;
  MutexLock lock(mu_);
  auto address = options_.server.addresses.front().text();
  s.set_server(trouble_.empty() ? fmt::format("{} on {}", options_.server.program, address) : "none: " + trouble_);
  s.set_remedy(remedy_);
  s.set_domain(options_.server.domain);
  s.set_address(address);
  s.set_resolver(resolver_.status());
  return s;
}

local::NamesReply NamesKeeper::list() const {
  local::NamesReply reply;
  *reply.mutable_state() = state();
  MutexLock lock(mu_);
  for (const auto& row : directory_.rows()) {
    auto& name = *reply.add_names();
    name.set_name(row.label);
    name.set_container(row.name);
    for (const auto& a : row.addresses) name.add_addresses(a.text());
    name.set_node(row.node);
    name.set_since_unix_ms(row.since_ms);
    name.set_bare(row.bare);
    name.set_served(row.served);
    name.set_note(row.note);
  }
  return reply;
}

Result<> NamesKeeper::set_up(bool remove) {
  if (remove) return resolver_.remove();
  {
    MutexLock lock(mu_);
    if (!trouble_.empty())
      return std::unexpected(
          Error(Errc::kUnavailable, fmt::format("there is no DNS server on this node to ask: {}", trouble_))
              .with_remedy(remedy_));
  }
  return resolver_.set_up();
}

}  // namespace transship::node
