#include "network/tracking.h"

#include <libnetfilter_conntrack/libnetfilter_conntrack.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

namespace transship::network {
namespace {

using Entry = std::unique_ptr<nf_conntrack, decltype(&::nfct_destroy)>;
using Handle = std::unique_ptr<nfct_handle, decltype(&::nfct_close)>;

struct Search {
  const std::vector<IpAddress>& addresses;
  std::vector<Entry> found;
};

bool concerns(const nf_conntrack* entry, const IpAddress& address) {
  constexpr std::array kV4 = {ATTR_ORIG_IPV4_SRC, ATTR_ORIG_IPV4_DST, ATTR_REPL_IPV4_SRC, ATTR_REPL_IPV4_DST};
  constexpr std::array kV6 = {ATTR_ORIG_IPV6_SRC, ATTR_ORIG_IPV6_DST, ATTR_REPL_IPV6_SRC, ATTR_REPL_IPV6_DST};
  return std::ranges::any_of(address.is_v4() ? kV4 : kV6, [&](nf_conntrack_attr which) {
    const void* value = ::nfct_get_attr(entry, which);
    return value != nullptr && std::memcmp(value, address.data(), address.size()) == 0;
  });
}

int look_at(nf_conntrack_msg_type, nf_conntrack* entry, void* data) {
  auto& search = *static_cast<Search*>(data);
  if (::nfct_get_attr_u16(entry, ATTR_ZONE) != 0) return NFCT_CB_CONTINUE;
  if (std::ranges::any_of(search.addresses, [&](const IpAddress& a) { return concerns(entry, a); }))
    search.found.emplace_back(::nfct_clone(entry), &::nfct_destroy);
  return NFCT_CB_CONTINUE;
}

Result<Handle> open_tracking() {
  Handle handle(::nfct_open(CONNTRACK, 0), &::nfct_close);
  if (!handle) return fail_errno(errno, "ask the kernel for the connections that it tracks");
  return handle;
}

}  // namespace

Result<size_t> forget_connections(const std::vector<IpAddress>& addresses) {
  Search search{addresses, {}};
  TS_TRY_ASSIGN(Handle reader, open_tracking());
  ::nfct_callback_register(reader.get(), NFCT_T_ALL, look_at, &search);
  for (uint32_t family : {AF_INET, AF_INET6}) {
    if (!std::ranges::contains(addresses, family == AF_INET, &IpAddress::is_v4)) continue;
    if (::nfct_query(reader.get(), NFCT_Q_DUMP, &family) < 0) return fail_errno(errno, "list the tracked connections");
  }
  TS_TRY_ASSIGN(Handle writer, open_tracking());
  size_t forgotten = 0;
  for (const auto& entry : search.found) {
    if (::nfct_query(writer.get(), NFCT_Q_DESTROY, entry.get()) == 0)
      ++forgotten;
    else if (errno != ENOENT)  // it ended by itself
      return fail_errno(errno, "forget a tracked connection");
  }
  return forgotten;
}

}  // namespace transship::network
