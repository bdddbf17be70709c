#include "node/said_names.h"

namespace transship::node {

Result<names::NamedContainer> from_proto(const peer::NamedContainer& said, const std::string& speaker) {
  names::NamedContainer c{.name = said.name(),
                          .addresses = {},
                          .home = said.home().empty() ? speaker : said.home(),
                          .home_id = said.home_id(),
                          .since_ms = said.since_unix_ms(),
                          .leaving = said.leaving(),
                          .before_home = said.before_home(),
                          .before_id = said.before_id()};
  if (static_cast<size_t>(said.addresses_size()) > names::kMaxAddresses)
    return fail(Errc::kPeerProtocol, "it has more than {} addresses", names::kMaxAddresses);
  for (const auto& text : said.addresses()) {
    auto address = network::IpAddress::parse(text);
    if (!address) return fail(Errc::kPeerProtocol, "one of its addresses is none");
    c.addresses.push_back(*address);
  }
  return c;
}

void to_proto(const names::NamedContainer& c, peer::NamedContainer& out) {
  out.set_name(c.name);
  for (const auto& a : c.addresses) out.add_addresses(a.text());
  out.set_home(c.home);
  out.set_home_id(c.home_id);
  out.set_since_unix_ms(c.since_ms);
  out.set_leaving(c.leaving);
  out.set_before_home(c.before_home);
  out.set_before_id(c.before_id);
}

}  // namespace transship::node
