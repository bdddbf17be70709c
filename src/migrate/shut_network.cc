#include "migrate/shut_network.h"

namespace transship::migrate {
namespace {

constexpr const char* kTable = "transship_leaving";
// Before connection tracking and everything else that looks at packets.
constexpr int kPriority = -400;

}  // namespace

Result<ShutNetwork> ShutNetwork::shut(pid_t pid) {
  auto netns = fmt::format("/proc/{}/ns/net", pid);
  if (sys::is_own_netns(netns)) return fail(Errc::kRefused, "process {} is in the host's own network", pid);
  TS_TRY_ASSIGN(auto nft, sys::NftSocket::open_in_netns(netns));
  auto added = nft.add_drop_all(kTable, kPriority);
  if (!added && added.error().code() != Errc::kAlreadyExists) return std::unexpected(std::move(added).error());
  return ShutNetwork(std::move(nft));
}

Result<> ShutNetwork::open_of(pid_t pid) {
  TS_TRY_ASSIGN(auto nft, sys::NftSocket::open_in_netns_of(pid));
  return nft.remove(kTable);
}

Result<> ShutNetwork::open() { return nft_.remove(kTable); }

}  // namespace transship::migrate
