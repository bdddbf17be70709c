// A source's part of a move with a new address: nothing leads to the old one afterwards, so its connections are ended,
// and the container's entries change their home.
#include "base/log.h"
#include "migrate/entry_handover.h"
#include "migrate/source.h"

namespace transship::migrate {
namespace {

constexpr milliseconds kSettleLimit{2'000};
// For the clients to acknowledge that nothing more comes; what they have not by then is reset.
constexpr milliseconds kEndLimit{400};

}  // namespace

// Those that do not hear of it lead to where the container was until they do.
Result<> SourceMove::offer_entries() {
  if (planned_.exposed.empty() || services_.entries == nullptr) return {};
  offered_ = true;
  TS_TRY_ASSIGN(auto not_told, services_.entries->offer(cutover_, request_.peer));
  for (const auto& sentence : not_told)
    warnings_.push_back(fmt::format("expose: leads to {} on {} later: {}", container(), request_.peer, sentence));
  return {};
}

void SourceMove::withdraw_entries() {
  if (offered_) services_.entries->withdraw(cutover_);
  offered_ = false;
}

// Beside the restore: they are many, and the tasks stand still anyway.
void SourceMove::take_connections() {
  taking_thread_ =
      Thread("connections", [this] { old_connections_ = network::OldConnections::take(planned_.survey.pids); });
}

void SourceMove::give_connections_back() {
  taking_thread_.join();
  old_connections_ = {};
}

// The decision is on disk, and the tasks are frozen: nobody reads from these sockets any more. The tasks die
// afterwards, so that there is still somebody to take the sockets from if this daemon is killed meanwhile.
void SourceMove::end_connections(bool confirmed) {
  if (!old_connections_.missed().empty())
    warnings_.push_back("connections: some end without a word: " + old_connections_.missed());
  bool settled = !offered_ || (confirmed && entries_settled());
  // A new connection that comes by an entry which does not know better yet is not to be refused: it is kept, and tried
  // again by its client. Those of others that come meanwhile wait with it.
  bool let_in = hold_ && settled;
  if (let_in) {
    if (auto r = hold_->drop(); !r) TS_LOG_WARN("mig={} phase=release {}", id(), r.error().message());
  }
  if (shut_) {
    if (auto r = shut_->open(); !r)
      TS_LOG_ERROR("mig={} phase=release open the network: {}", id(), r.error().message());
  }
  connections_ended_ = old_connections_.end(kEndLimit);
  TS_LOG_INFO("mig={} phase=release connections ended={} entries settled={}", id(), connections_ended_, settled);
  if (let_in) refuse_old_address();
}

// A client that is told that its connection ended connects again at once, and is to be led to the new place then.
bool SourceMove::entries_settled() {
  auto never = Cancel::create();
  if (!never) return false;
  peer::Request request;
  request.mutable_settled()->set_move_id(id());
  auto settled = session_->call(request, Deadline::in(kSettleLimit), *never);
  if (!settled) TS_LOG_WARN("mig={} phase=release entries: {}", id(), settled.error().message());
  return settled.has_value();
}

void SourceMove::refuse_old_address() {
  if (!hold_) return;
  if (auto r = hold_->refuse(); !r) TS_LOG_DEBUG("mig={} phase={} {}", id(), reporter_.phase(), r.error().message());
}

void SourceMove::fill_addresses(local::Summary& s) const {
  for (const auto& a : cutover_.addresses) s.add_old_addresses(a);
  for (const auto& a : request_.new_address ? cutover_.new_addresses : cutover_.addresses) s.add_new_addresses(a);
  if (!request_.new_address) return;
  s.set_connections_closed(connections_ended_);
  for (const auto& port : planned_.exposed) s.add_entries(services_.entries->text_of(port));
}

}  // namespace transship::migrate
