// A destination's part of a move with a new address: which one that is, what of the old one is not restored, and the
// entries that lead here afterwards.
#include "base/log.h"
#include "criu/connection_images.h"
#include "migrate/destination.h"
#include "migrate/entry_handover.h"

namespace transship::migrate {
namespace {

constexpr milliseconds kSettleLimit{1'000};

}  // namespace

// The engine holds its lock of the container while it waits at the gate, so its namespace is asked.
Result<> DestinationMove::learn_addresses(const std::string& netns) {
  if (netns.empty())
    return fail(Errc::kUnavailable, "{} has no network namespace with a path on {}", wanted_.name,
                services_.settings.node);
  TS_TRY_ASSIGN(new_addresses_, engine::addresses_in(netns));
  if (new_addresses_.empty() && !wanted_.addresses.empty())
    return fail(Errc::kUnavailable, "the engine on {} gave {} no address", services_.settings.node, wanted_.name);
  for (const auto& a : new_addresses_) cutover_.new_addresses.push_back(a.ip);
  TS_LOG_INFO("mig={} phase=memory {} gets {}", id_, wanted_.name, fmt::join(cutover_.new_addresses, " and "));
  return {};
}

Result<> DestinationMove::end_old_connections() {
  if (!wanted_.new_address) return {};
  TS_TRY_ASSIGN(auto ended, criu::end_connections(directory_ + "/images"));
  TS_LOG_INFO("mig={} phase=restore connections ended={} within={} datagram sockets with a peer={}", id_, ended.ended,
              ended.kept, ended.unbound);
  return {};
}

// Nobody waits for it in the gap; but clients of an entry may.
void DestinationMove::take_over_entries() {
  if (!wanted_.new_address) return;
  if (services_.entries != nullptr && lost().empty()) services_.entries->claim(wanted_, new_addresses_, exposed_);
  settled_.cancel("the entries lead here");
}

void DestinationMove::wait_settled() { (void)sleep_for(kSettleLimit, settled_); }

}  // namespace transship::migrate
