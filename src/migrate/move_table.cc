#include "migrate/move_table.h"

#include <malloc.h>

#include "base/log.h"
#include "base/text.h"

namespace transship::migrate {
namespace {

constexpr milliseconds kHousekeepingEvery{500};
constexpr milliseconds kArbiterLimit{3000};
// When the daemon is to end, for a move whose decision is not known to find it out. After that it stays frozen.
constexpr milliseconds kStopPatience{5000};

bool arrived_from(const state::Move& move, const std::string& peer) {
  return move.role == "destination" && move.from == peer;
}

// How an arrival that is over has ended, where no decision is in the journal: undone, or its host went down with it.
// What was parked then has never run.
Decision end_of(const state::Move& arrival) {
  bool parked = destination_state(arrival.phase) == DestinationState::kParked;
  return arrival.state == "done" || (arrival.state == "failed" && !parked) ? Decision::kCommit : Decision::kAbort;
}

}  // namespace

std::string new_move_id() { return random_hex(5); }

MoveTable::MoveTable(Services& services) : services_(services), stop_(Cancel::create().value()) {
  housekeeper_ = Thread("housekeeping", [this] { housekeeping(); });
}

MoveTable::~MoveTable() {
  stop_.cancel("the daemon ends");
  housekeeper_.join();
  std::map<std::string, std::unique_ptr<SourceEntry>> sources;
  std::map<std::string, std::shared_ptr<DestinationMove>> destinations;
  std::map<std::string, std::unique_ptr<ResumedSource>> resumed;
  {
    MutexLock lock(mu_);
    for (auto& [id, entry] : sources_) {
      if (!entry->move->cancel("the daemon ends")) entry->move->leave();
    }
    resumed.swap(resumed_);
    destinations.swap(destinations_);
    sources.swap(sources_);
  }
  Cancel joined = Cancel::create().value();
  Thread impatient("move-leave", [&] {
    if (!sleep_for(kStopPatience, joined)) return;
    for (auto& [id, entry] : sources) entry->move->leave();
  });
  for (auto& [id, entry] : sources) entry->thread.join();
  joined.cancel("all have ended");
  for (auto& [id, move] : destinations) {
    // A parked container waits for its source's word: it stays frozen when the daemon ends.
    if (move->state_text() != "parked") (void)move->abort("the daemon ends");
  }
}

Result<> MoveTable::check_not_moving(const std::string& container) const {
  for (const auto& [id, move] : resumed_) {
    if (!move->ended() && move->container() == container)
      return fail(Errc::kAlreadyExists, "{} has been moved by move {}, which is not over yet", container, id);
  }
  for (const auto& [id, entry] : sources_) {
    if (!entry->ended && entry->container == container)
      return std::unexpected(
          Error(Errc::kAlreadyExists, fmt::format("{} is being moved already, by move {}", entry->name, id))
              .with_remedy(fmt::format("`transship show {}` watches it, `transship cancel {}` calls it off", id, id)));
  }
  return {};
}

Result<MoveTable::Started> MoveTable::start(SourceRequest request) {
  TS_TRY(services_.peer(request.peer));
  TS_TRY_ASSIGN(Cancel cancel, Cancel::create());
  request.move_id = new_move_id();
  auto entry = std::make_unique<SourceEntry>();
  // One that cannot be found fails as the first phase of its move, with the same words as everywhere.
  TS_TRY_ASSIGN(auto found, find_container(services_, request.container));
  entry->container = fmt::format("{}:{}", found.container.engine, found.container.id);
  entry->name = fmt::format("{}:{}", found.container.engine, found.container.name);
  entry->peer = request.peer;
  entry->feed = std::make_shared<EventFeed>();
  auto feed = entry->feed;
  auto id = request.move_id;
  auto sink = [this, feed, id](const local::MoveEvent& event) {
    feed->add(event);
    if (event.has_progress()) return;
    if (auto r = services_.store->add_event(id, event.SerializeAsString()); !r)
      TS_LOG_DEBUG("mig={} journal: {}", id, r.error().message());
  };
  entry->move = std::make_unique<SourceMove>(services_, std::move(request), sink, cancel);
  for (const auto& move : destinations()) move->leaves(found.container.id);
  MutexLock lock(mu_);
  TS_TRY(check_not_moving(entry->container));
  auto& kept = *(sources_[id] = std::move(entry));
  kept.thread = Thread("move-source", [this, &kept] { run_source(kept); });
  return Started{id, feed};
}

void MoveTable::run_source(SourceEntry& entry) {
  entry.move->run();
  auto rest = entry.move->take_rest();
  if (rest) go_on_with(entry.move->id(), std::move(*rest));
  {
    MutexLock lock(mu_);
    entry.ended = true;
  }
  entry.feed->end();
  // Late packets are still passed on for a while.
  (void)sleep_for(services_.settings.hold_grace + milliseconds(200), stop_);
  entry.move->end_late();
  MutexLock lock(mu_);
  entry.buried = true;
}

// The destination did not hear of the decision, or did not say that it has all memory: forward all the same, for as
// long as it takes, and nobody waits for it.
void MoveTable::go_on_with(const std::string& move_id, journal::Leaving facts) {
  auto resumed = ResumedSource::start(services_, move_id, std::move(facts));
  if (!resumed) return TS_LOG_ERROR("mig={} cannot be gone on with: {}", move_id, resumed.error().message());
  MutexLock lock(mu_);
  resumed_[move_id] = std::move(*resumed);
}

Result<bool> MoveTable::cancel(const std::string& move_id, const std::string& reason) {
  MutexLock lock(mu_);
  auto it = sources_.find(move_id);
  if (it == sources_.end() || it->second->ended)
    return fail(Errc::kNotFound, "no move {} runs on this node as its source", move_id);
  return it->second->move->cancel(reason);
}

size_t MoveTable::running() const {
  MutexLock lock(mu_);
  size_t n = 0;
  for (const auto& [id, entry] : sources_) n += entry->ended ? 0 : 1;
  for (const auto& [id, move] : destinations_) n += move->ended() ? 0 : 1;
  for (const auto& [id, move] : resumed_) n += move->ended() ? 0 : 1;
  return n;
}

Result<std::shared_ptr<DestinationMove>> MoveTable::reserve(const SessionPeer& source,
                                                            const peer::ReserveRequest& request) {
  {
    MutexLock lock(mu_);
    if (destinations_.contains(request.move_id()) || sources_.contains(request.move_id()))
      return fail(Errc::kAlreadyExists, "move {} is known here already", request.move_id());
    std::vector<std::string> addresses;
    for (const auto& a : request.container().addresses()) addresses.push_back(a.ip());
    // It comes back before its late packets were all passed on: they find it here.
    for (auto& [id, entry] : sources_) {
      if (entry->ended) entry->move->end_hold(addresses);
    }
  }
  TS_TRY_ASSIGN(auto move, DestinationMove::create(services_, source, request));
  MutexLock lock(mu_);
  destinations_[move->id()] = move;
  return move;
}

Result<> MoveTable::resume(const std::string& move_id, const journal::ResumeFile& facts) {
  if (facts.has_leaving()) {
    TS_TRY_ASSIGN(auto move, ResumedSource::start(services_, move_id, facts.leaving()));
    MutexLock lock(mu_);
    resumed_[move_id] = std::move(move);
    return {};
  }
  TS_TRY_ASSIGN(auto move, DestinationMove::resume(services_, move_id, facts.arriving()));
  MutexLock lock(mu_);
  destinations_[move->id()] = std::move(move);
  return {};
}

Result<> MoveTable::ended_here(const std::string& move_id, const std::string& peer) const {
  auto move = services_.store->move(move_id);
  if (!move && move.error().code() != Errc::kNotFound) return std::unexpected(std::move(move).error());
  TS_TRY_ASSIGN(auto decided, services_.store->decision(move_id));
  // Decisions are kept longer than what else is known of moves.
  if (move ? arrived_from(*move, peer) : decided.has_value()) {
    if (decided == Decision::kAbort || (move && move->state == "rolled-back"))
      return fail(Errc::kCancelled, "move {} was ended on {}", move_id, services_.settings.node);
    if (!move || move->state == "done") return {};
    if (move->state == "failed") return fail(Errc::kCorrupt, "{}", move->error);
  }
  return fail(Errc::kNotFound, "no move {} of {} is known on {}", move_id, peer, services_.settings.node);
}

std::shared_ptr<DestinationMove> MoveTable::find(const std::string& move_id, const std::string& peer) const {
  MutexLock lock(mu_);
  auto it = destinations_.find(move_id);
  if (it == destinations_.end() || it->second->source() != peer) return nullptr;
  return it->second;
}

std::vector<std::shared_ptr<DestinationMove>> MoveTable::destinations() const {
  MutexLock lock(mu_);
  std::vector<std::shared_ptr<DestinationMove>> list;
  for (const auto& [id, move] : destinations_) list.push_back(move);
  return list;
}

Result<peer::Decision> MoveTable::decision(const std::string& move_id, const std::string& peer) {
  if (!is_plain_name(move_id)) return fail(Errc::kPeerProtocol, "the move id is not a plain name");
  auto known = services_.store->move(move_id);
  if (!known && known.error().code() != Errc::kNotFound) return std::unexpected(std::move(known).error());
  if (known && (known->role != "source" || known->to != peer)) {
    TS_LOG_WARN("mig={} {} asks for the decision of a move that is not with it", move_id, peer);
    return fail(Errc::kUnauthorized, "move {} is not with {}", move_id, peer);
  }
  TS_TRY_ASSIGN(auto decided, services_.store->decision(move_id));
  if (decided) return *decided == state::Decision::kCommit ? peer::DECISION_COMMIT : peer::DECISION_ABORT;
  TS_TRY_ASSIGN(bool open, works_on(move_id, peer));
  if (open) return peer::DECISION_UNDECIDED;
  // Nobody here works on it any more: it can never be committed here. Written down before it is said; but in the
  // journal not for one that was never made, of which whoever asks could think of any number.
  if (!known && !services_.arbiter) return peer::DECISION_ABORT;
  auto deadline = Deadline::in(kArbiterLimit);
  TS_TRY_ASSIGN(auto decisions,
                DecisionRegister::of_unknown(*services_.store, services_.arbiter.get(), move_id, deadline, stop_));
  TS_TRY_ASSIGN(auto stands, decisions->decide(Decision::kAbort, deadline, stop_));
  if (known) TS_TRY(decisions->keep(stands));
  return stands == Decision::kCommit ? peer::DECISION_COMMIT : peer::DECISION_ABORT;
}

Result<bool> MoveTable::works_on(const std::string& move_id, const std::string& peer) const {
  MutexLock lock(mu_);
  const std::string* with = nullptr;
  if (auto it = sources_.find(move_id); it != sources_.end() && !it->second->ended) with = &it->second->peer;
  if (auto it = resumed_.find(move_id); it != resumed_.end() && !it->second->ended()) with = &it->second->peer();
  if (with != nullptr && *with != peer) return fail(Errc::kUnauthorized, "move {} is not with {}", move_id, peer);
  return with != nullptr;
}

Result<peer::Decision> MoveTable::withdraw(const std::string& move_id, const std::string& peer) {
  if (auto move = find(move_id, peer)) {
    TS_TRY_ASSIGN(Decision decision, move->withdraw(fmt::format("{} has taken it back", peer)));
    return decision == Decision::kCommit ? peer::DECISION_COMMIT : peer::DECISION_ABORT;
  }
  auto record = services_.store->move(move_id);
  TS_TRY_ASSIGN(auto decided, services_.store->decision(move_id));
  if (record ? !arrived_from(*record, peer) : !decided)
    return fail(Errc::kNotFound, "no move {} of {} is known on {}", move_id, peer, services_.settings.node);
  if (!decided) {
    if (record->ended_ms == 0) return fail(Errc::kUnavailable, "move {} has not ended here, and is not known", move_id);
    decided = end_of(*record);
    // Written down before it is said: the source goes by it.
    TS_TRY(services_.store->decide(move_id, *decided));
  }
  return *decided == Decision::kCommit ? peer::DECISION_COMMIT : peer::DECISION_ABORT;
}

Result<Standing> MoveTable::standing(const std::string& move_id) const {
  {
    MutexLock lock(mu_);
    if (auto it = sources_.find(move_id); it != sources_.end() && !it->second->ended)
      return it->second->move->standing();
    if (auto it = resumed_.find(move_id); it != resumed_.end() && !it->second->ended()) return it->second->standing();
    if (auto it = destinations_.find(move_id); it != destinations_.end() && !it->second->ended())
      return it->second->standing();
  }
  TS_TRY_ASSIGN(auto move, services_.store->move(move_id));
  Standing s;
  s.move_id = move.id;
  s.container = move.container;
  s.here = services_.settings.node;
  s.peer = move.role == "source" ? move.to : move.from;
  TS_TRY_ASSIGN(auto decision, services_.store->decision(move_id));
  bool committed = decision == state::Decision::kCommit;
  if (move.role == "source")
    s.source = move.ended_ms == 0 ? state_in_phase(move.phase)
               : committed        ? SourceState::kDone
                                  : SourceState::kRolledBack;
  else
    s.destination = move.ended_ms == 0     ? destination_state(move.phase)
                    : move.state == "done" ? DestinationState::kDone
                                           : DestinationState::kAborted;
  return s;
}

Result<> MoveTable::resolve(const std::string& move_id, const OperatorsWord& word) {
  TS_TRY_ASSIGN(Standing now, standing(move_id));
  TS_TRY(risk_of(now, word));
  std::shared_ptr<DestinationMove> arriving;
  {
    MutexLock lock(mu_);
    if (auto it = resumed_.find(move_id); it != resumed_.end()) return it->second->resolve(word);
    if (auto it = destinations_.find(move_id); it != destinations_.end()) arriving = it->second;
  }
  if (arriving) return arriving->resolve(word);
  return std::unexpected(
      Error(Errc::kRefused, fmt::format("move {} is still being worked on here, and ends by itself", move_id))
          .with_remedy(fmt::format("`transship show {}` tells what it waits for. If that is gone for good: restart "
                                   "transshipd here, nothing is lost by that, and resolve it then",
                                   move_id)));
}

namespace {

// The C library keeps what a move's threads have freed, some 15 MiB each time, in heaps that the next move's threads do
// not find again. Not beside another move: whoever allocates waits for it, a millisecond or two.
void give_memory_back() { (void)::malloc_trim(0); }

}  // namespace

void MoveTable::housekeeping() {
  while (sleep_for(kHousekeepingEvery, stop_)) {
    std::vector<std::unique_ptr<SourceEntry>> buried;
    std::vector<std::shared_ptr<DestinationMove>> over;
    bool idle = false;
    {
      MutexLock lock(mu_);
      for (auto it = sources_.begin(); it != sources_.end();) {
        if (!it->second->buried) {
          ++it;
          continue;
        }
        buried.push_back(std::move(it->second));
        it = sources_.erase(it);
      }
      std::erase_if(resumed_, [](const auto& entry) { return entry.second->ended(); });
      for (auto it = destinations_.begin(); it != destinations_.end();) {
        if (!it->second->ended()) {
          ++it;
          continue;
        }
        over.push_back(std::move(it->second));
        it = destinations_.erase(it);
      }
      idle = sources_.empty() && destinations_.empty();
    }
    bool ended = !buried.empty() || !over.empty();
    buried.clear();
    over.clear();
    if (idle && ended) give_memory_back();
    services_.unrecorded.retry(*services_.store);
    for (const auto& move : destinations()) {
      move->renew_if_busy();
      move->retry_undo();
    }
    for (const auto& reservation : services_.reservations.take_expired()) {
      for (const auto& move : destinations()) {
        if (move->id() == reservation.move_id) move->expire();
      }
    }
  }
}

}  // namespace transship::migrate
