#include "fuzz/fake_node.h"

#include <sched.h>

#include "fuzz/input.h"

namespace transship::fuzz {
namespace {

using network::IpAddress;

// Where handlers take ports and ask the kernel: a network of its own, with nothing in it.
bool leave_the_network() {
  static const bool left = ::unshare(CLONE_NEWNET) == 0 || ::unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0;
  return left;
}

const wire::Identity& identity() {
  static const auto one = wire::Identity::make_ephemeral();
  TS_CHECK(one, "{}", one.error().message());
  return *one;
}

// All that the kernel would get is text for `nft` and `ip`: nothing of a peer's may begin a line or a word of it.
Result<> to_kernel(const network::Placement& placement, const std::function<bool()>&) {
  TS_TRY_ASSIGN(auto state, network::wanted_state(placement));
  for (const auto& text : {network::firewall_script(placement), network::route_changes({}, state, true),
                           network::route_changes({}, state, false)})
    for (char c : text) TS_CHECK(c == '\n' || (is_ascii(c) && !is_control(c)), "for nft or ip: {}", text);
  return {};
}

}  // namespace

FakeNode::FakeNode()
    : services{.settings = {},
               .identity = identity(),
               .store = std::make_unique<FakeStore>(),
               .engines = {},
               .cutover = {}},
      exposures(*services.store, own()),
      placements(*services.store, *this, &exposures, to_kernel),
      exposer(services, placements, exposures, *this),
      cutover(services, placements, *this),
      handover(services, placements, exposures, exposer) {
  TS_CHECK(leave_the_network(), "a network namespace of its own: {}", errno_text(errno));
  services.settings.node = "aws";
  for (const char* peer : {"azure", "openstack"})
    TS_CHECK(services.store->add_peer({.name = peer, .address = "", .fingerprint = key(peer)}));
  TS_CHECK(placements.put({.role = migrate::PlacedRole::kAway,
                           .home = own(),
                           .home_id = "3f2a",
                           .name = "redis",
                           .addresses = {*IpAddress::parse("10.88.0.3")},
                           .bridge = "podman0",
                           .peer = "azure"}));
  TS_CHECK(exposures.put({.entry = key("openstack"),
                          .home = own(),
                          .port = 7379,
                          .name = "redis",
                          .addresses = {{*IpAddress::parse("10.88.0.3"), 16}},
                          .container_port = 6379}));
}

}  // namespace transship::fuzz
