//                                   ports 8080 → box:80
//   client --10.7.0.0/24, fd07::/64-- home ====ts==== place --10.6.0.0/24-- visitor
//                     sibling .5 --10.88.0.0/16--|          |--10.88.0.0/16-- box .3, fd88::3
//
// box is at home on home's network and lives on place's. ts is a pair without link addresses, as a tunnel is.
#include "network/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/text.h"
#include "base/thread.h"
#include "network/test_net.h"
#include "network/tunnel_link.h"

namespace transship::network {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::join;
using testing::Net;
using ::testing::Not;

IpAddress address(std::string_view text) { return *IpAddress::parse(text); }

AwayContainer away_box() {
  return {.id = "box",
          .addresses = {address("10.88.0.3"), address("fd88::3")},
          .tunnel = "ts1",
          .bridge = "br0",
          .ports = {{.host_port = 8080, .container_port = 80},
                    {.protocol = "udp", .host_address = address("10.7.0.1"), .host_port = 53, .container_port = 5353}}};
}
GuestContainer guest_box() {
  return {.id = "box", .addresses = {address("10.88.0.3"), address("fd88::3")}, .tunnel = "ts2", .bridge = "br0"};
}

TEST(Placement, OfAnAwayContainer) {
  auto s = wanted_state({.tunnels = {"ts0", "ts1"}, .away = {away_box()}, .guests = {}});
  ASSERT_TRUE(s) << s.error().message();
  EXPECT_THAT(s->routes,
              ElementsAre(PlacedRoute{"10.88.0.3", true, "ts1", 0}, PlacedRoute{"fd88::3", false, "ts1", 0}));
  EXPECT_THAT(s->neighbours,
              ElementsAre(PlacedNeighbour{"10.88.0.3", true, "br0"}, PlacedNeighbour{"fd88::3", false, "br0"}));
  EXPECT_THAT(s->rules, IsEmpty());
}

TEST(Placement, OfAGuest) {
  auto s = wanted_state({.tunnels = {"ts0", "ts2"}, .away = {}, .guests = {guest_box()}});
  ASSERT_TRUE(s) << s.error().message();
  EXPECT_THAT(s->routes,
              ElementsAre(PlacedRoute{"10.88.0.3", true, "br0", 74101}, PlacedRoute{"default", false, "ts2", 74101},
                          PlacedRoute{"default", true, "ts2", 74101}, PlacedRoute{"fd88::3", false, "br0", 74101}));
  EXPECT_EQ(s->rules.size(), 4U);
  EXPECT_THAT(s->neighbours, IsEmpty());
}

TEST(Placement, OfOneThatComesHomeAndIsThere) {
  auto coming = away_box();
  coming.late = true;
  auto script = firewall_script({.tunnels = {"ts1"}, .away = {coming}, .guests = {}});
  EXPECT_THAT(script, HasSubstr("iifname \"ts1\" ip saddr { 10.88.0.3 } meta mark set"));
  EXPECT_THAT(script, HasSubstr("iifname \"ts1\" ip daddr { 10.88.0.3 } meta mark set"));
  coming.back = true;
  Placement home{.tunnels = {"ts1"}, .away = {coming}, .guests = {}};
  EXPECT_EQ(wanted_state(home), PlacedState{});
  script = firewall_script(home);
  EXPECT_THAT(script, Not(HasSubstr("saddr { 10.88.0.3 }")));
  EXPECT_THAT(script, HasSubstr("iifname \"ts1\" ip daddr { 10.88.0.3 } meta mark set"));
  EXPECT_THAT(script, Not(HasSubstr("dnat")));
  EXPECT_THAT(script, Not(HasSubstr("masquerade")));
}

TEST(Placement, WhatMakesNoSenseIsRefused) {
  auto twice = away_box();
  twice.id = "other";
  EXPECT_FALSE(wanted_state({.tunnels = {"ts1"}, .away = {away_box(), twice}, .guests = {}}));
  EXPECT_FALSE(wanted_state({.tunnels = {"ts1"}, .away = {away_box()}, .guests = {guest_box()}}));
  for (const char* name : {"", "a b", "sixteen-letters-", "x\" accept #"}) {
    auto bad = guest_box();
    bad.bridge = name;
    auto s = wanted_state({.tunnels = {"ts2"}, .away = {}, .guests = {bad}});
    ASSERT_FALSE(s) << name;
    EXPECT_THAT(s.error().message(), HasSubstr("is no name of an interface"));
  }
}

TEST(Placement, ChangesTakeAwayFirst) {
  auto before = *wanted_state({.tunnels = {"ts1"}, .away = {away_box()}, .guests = {}});
  auto after = *wanted_state({.tunnels = {"ts2"}, .away = {}, .guests = {guest_box()}});
  auto v4 = route_changes(before, after, true), v6 = route_changes(before, after, false);
  EXPECT_LT(v4.rfind(" del "), v4.find(" add "));
  EXPECT_LT(v4.rfind(" del "), v4.find(" replace "));
  EXPECT_THAT(v4, HasSubstr("route del 10.88.0.3 dev ts1 proto 185\n"));
  EXPECT_THAT(v4, HasSubstr("rule add pref 7400 from 10.88.0.3 iif br0 table 74100 protocol 185\n"));
  EXPECT_THAT(v6, HasSubstr("rule add pref 7399 fwmark 0x750000/0xff0000 table main protocol 185\n"));
  EXPECT_THAT(v4, Not(HasSubstr("fd88")));
  EXPECT_THAT(v6, Not(HasSubstr("10.88")));
  EXPECT_EQ(route_changes(after, after, true) + route_changes(after, after, false), "");
}

TEST(Placement, ListingsThatAreNoneAreAnError) {
  EXPECT_FALSE(parse_placed_state({.routes = "{", .rules_v4 = "", .rules_v6 = "", .neighbours = ""}));
  EXPECT_FALSE(parse_placed_state({.routes = "", .rules_v4 = "7", .rules_v6 = "", .neighbours = ""}));
  auto nothing = parse_placed_state({.routes = "", .rules_v4 = "[]", .rules_v6 = "\n", .neighbours = "[ ]"});
  ASSERT_TRUE(nothing);
  EXPECT_EQ(*nothing, PlacedState{});
}

TEST(Placement, AnOperatorsOwnRouteIsFound) {
  auto beaten = [](std::string_view others) {
    return beaten_by_own_route(
        fmt::format(R"([{{"dst":"10.88.0.3","dev":"ts0","protocol":"185","metric":6000}}{}])", others), "10.88.0.3");
  };
  EXPECT_FALSE(beaten(""));
  EXPECT_TRUE(beaten(R"(,{"dst":"10.88.0.3","dev":"vbox","scope":"link"})"));
  EXPECT_TRUE(beaten(R"(,{"dst":"10.88.0.3","dev":"vbox","protocol":"static","metric":100})"));
  EXPECT_FALSE(beaten(R"(,{"dst":"10.88.0.3","dev":"vbox","metric":9000})"));
  EXPECT_FALSE(beaten(R"(,{"dst":"10.88.0.4","dev":"vbox"},{"dst":"10.88.0.0/16","dev":"br0"},{"dst":"default"},7)"));
  EXPECT_FALSE(beaten(R"(,{"dst":"10.88.0.3","dev":"tsh0","protocol":"183"})"));
  EXPECT_FALSE(beaten(R"(,{"dst":"10.88.0.3","dev":"vbox"},{"dst":"10.88.0.3","dev":"ts0","protocol":"185"})"));
  EXPECT_FALSE(beaten_by_own_route("{", "10.88.0.3"));
}

struct PlacementNet : ::testing::Test {
  void SetUp() override {
    if (auto why = testing::why_no_namespaces(); !why.empty()) GTEST_SKIP() << why;
    for (auto* host : {&home, &place})
      (void)host->sh(
          "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0; "
          "ip link add br0 type bridge; ip link set br0 up; ip addr add 10.88.0.1/16 dev br0; "
          "ip addr add fd88::1/64 dev br0 nodad");
    for (auto* host : {&client, &visitor, &box, &sibling})
      (void)host->sh("sysctl -qw net.ipv6.conf.default.accept_dad=0");
    join(client, "eth0", home, "wan0");
    join(visitor, "eth0", place, "wan0");
    join(sibling, "eth0", home, "s0");
    join(box, "eth0", place, "b0");
    join(home, "ts1", place, "ts2");
    (void)client.sh(
        "ip addr add 10.7.0.2/24 dev eth0; ip addr add fd07::2/64 dev eth0 nodad; "
        "ip route add 10.88.0.0/16 via 10.7.0.1; ip -6 route add fd88::/64 via fd07::1");
    (void)home.sh("ip addr add 10.7.0.1/24 dev wan0; ip addr add fd07::1/64 dev wan0 nodad; ip link set s0 master br0");
    (void)visitor.sh("ip addr add 10.6.0.2/24 dev eth0");
    (void)place.sh("ip addr add 10.6.0.1/24 dev wan0; ip link set b0 master br0");
    (void)sibling.sh(
        "ip addr add 10.88.0.5/16 dev eth0; ip addr add fd88::5/64 dev eth0 nodad; "
        "ip route add default via 10.88.0.1; ip -6 route add default via fd88::1");
    (void)box.sh(
        "ip addr add 10.88.0.3/16 dev eth0; ip addr add fd88::3/64 dev eth0 nodad; "
        "ip route add default via 10.88.0.1; ip -6 route add default via fd88::1");
    // As the engine does on each host; place publishes port 8081 as well.
    for (auto* host : {&home, &place})
      (void)host->sh(
          "nft -f - <<E\ntable inet engine { chain out { type nat hook postrouting priority srcnat;\n"
          "ip saddr 10.88.0.0/16 ip daddr != 10.88.0.0/16 masquerade\n"
          "ip6 saddr fd88::/64 ip6 daddr != fd88::/64 masquerade\n}\n"
          "chain forward { type filter hook forward priority filter; ct state invalid drop\n}\n}\nE\n");
    (void)place.sh(
        "nft -f - <<E\ntable inet ports { chain in { type nat hook prerouting priority dstnat;\n"
        "fib daddr type local tcp dport 8081 dnat ip to 10.88.0.3:80\n}\n}\nE\n");
    for (auto [net, link] : {std::pair(&home, "ts1"), std::pair(&place, "ts2")}) {
      (void)net->sh(fmt::format("ip link set {0} address 02:00:00:00:00:01 arp off", link));
      loosen(*net, link);
    }
  }
  static void loosen(const Net& net, const std::string& tunnel) {
    net.in([&] {
      auto netlink = Netlink::open();
      ASSERT_TRUE(netlink);
      auto done = allow_any_source(*netlink, tunnel);
      EXPECT_TRUE(done) << done.error().message();
    });
  }
  static void apply(const Net& net, const Placement& placement) {
    net.in([&] {
      auto done = PlacementKernel().apply(placement);
      EXPECT_TRUE(done) << net.name() << ": " << done.error().message();
    });
  }
  void place_box() {
    box.in([] { EXPECT_TRUE(set_gateway_routes()); });
    apply(place, {.tunnels = {"ts2"}, .away = {}, .guests = {guest_box()}});
    apply(home, {.tunnels = {"ts1"}, .away = {away_box()}, .guests = {}});
  }
  static std::string answers(const Net& from, const std::string& to) {
    return std::string(trim(from.sh(fmt::format("ping -c2 -i0.2 -W1 {} >/dev/null && echo yes || echo no", to))));
  }
  // Who it seems to be to a server on `on`, which it calls as `to`.
  static std::string seen_as(const Net& from, const std::string& to, uint16_t port, const Net& on,
                             uint16_t listen_port) {
    constexpr auto kServe = R"(
import socket,sys
s=socket.create_server(("",int(sys.argv[1])),family=socket.AF_INET6,dualstack_ipv6=True); s.settimeout(5)
print("ready",flush=True)
try:
  c,a=s.accept(); c.sendall(a[0].encode()); c.close()
except TimeoutError: pass
)";
    constexpr auto kAsk = R"(
import socket,sys
try:
  c=socket.create_connection((sys.argv[1],int(sys.argv[2])),3); c.settimeout(3); print(c.recv(99).decode().removeprefix("::ffff:"))
except OSError as e: print("error",e)
)";
    Thread server("server", [&] { (void)on.sh(fmt::format("python3 -c '{}' {} >/dev/null", kServe, listen_port)); });
    (void)from.sh("sleep 0.4");
    auto seen = std::string(trim(from.sh(fmt::format("python3 -c '{}' {} {}", kAsk, to, port))));
    if (seen.starts_with("error"))
      (void)on.sh(
          fmt::format("python3 -c 'import socket; socket.create_connection((\"::1\",{}),1)' || true", listen_port));
    server.join();
    return seen;
  }
  static std::string state_of(const Net& net) {
    return net.sh(
        "ip rule; ip -6 rule; ip route show table all | grep -v '^broadcast\\|cache' | sort; "
        "ip -6 route show table all | sort; ip neigh show proxy; ip -6 neigh show proxy; nft list tables");
  }
  Net client{"client"}, home{"home"}, place{"place"}, visitor{"visitor"}, box{"box"}, sibling{"sibling"};
};

TEST_F(PlacementNet, BoxIsReachedAndReachesAsAtHome) {
  auto home_before = state_of(home), place_before = state_of(place);
  EXPECT_EQ(answers(client, "10.88.0.3"), "no");
  place_box();
  for (const char* to : {"10.88.0.3", "fd88::3"}) {
    EXPECT_EQ(answers(client, to), "yes") << to;
    EXPECT_EQ(answers(sibling, to), "yes") << to;
  }
  EXPECT_EQ(answers(box, "10.88.0.5"), "yes");
  EXPECT_EQ(answers(box, "fd88::5"), "yes");
  EXPECT_EQ(seen_as(client, "10.88.0.3", 80, box, 80), "10.7.0.2");
  EXPECT_EQ(seen_as(client, "10.7.0.1", 8080, box, 80), "10.7.0.2");
  EXPECT_EQ(seen_as(sibling, "10.88.0.3", 80, box, 80), "10.88.0.5");
  EXPECT_EQ(seen_as(box, "10.88.0.5", 80, sibling, 80), "10.88.0.3");
  EXPECT_EQ(seen_as(box, "10.7.0.2", 80, client, 80), "10.7.0.1");  // as before, home's address
  EXPECT_EQ(seen_as(box, "fd07::2", 80, client, 80), "fd07::1");
  // place's own port leads to it as well, and the answer takes the same way back.
  EXPECT_EQ(seen_as(visitor, "10.6.0.1", 8081, box, 80), "10.6.0.2");
  apply(home, {});
  apply(place, {});
  EXPECT_EQ(state_of(home), home_before);
  EXPECT_EQ(state_of(place), place_before);
}

// What apply() goes by is older than the switch of a way: it must not take that back.
TEST_F(PlacementNet, AWaySwitchedMeanwhileStays) {
  place_box();
  auto staged = away_box();
  staged.staged = true;
  apply(home, {.tunnels = {"ts1"}, .away = {staged}, .guests = {}});
  home.in([&] {
    bool switched = false;
    auto still = [&] {
      if (!std::exchange(switched, true)) {
        EXPECT_TRUE(lead_away(staged.addresses, "ts1", staged.bridge));
      }
      return false;
    };
    EXPECT_TRUE(PlacementKernel().apply({.tunnels = {"ts1"}, .away = {staged}, .guests = {}}, still));
  });
  EXPECT_EQ(answers(client, "10.88.0.3"), "yes");
}

// A plain bundle's network is the operator's, who has set a route to it; it stays there when the container is away.
TEST_F(PlacementNet, AnOperatorsOwnRouteDoesNotWin) {
  auto before = state_of(home);
  (void)home.sh("ip route add 10.88.0.3 dev br0; ip -6 route add fd88::3 dev br0");
  auto with_route = state_of(home);
  place_box();
  apply(home, {.tunnels = {"ts1"}, .away = {away_box()}, .guests = {}});  // again: nothing is added
  for (const char* to : {"10.88.0.3", "fd88::3"}) EXPECT_EQ(answers(client, to), "yes") << to;
  home.in([&] {
    EXPECT_TRUE(PlacementKernel().compare({.tunnels = {"ts1"}, .away = {away_box()}, .guests = {}})->empty());
    EXPECT_TRUE(lead_home({address("10.88.0.3"), address("fd88::3")}, "br0"));
  });
  EXPECT_EQ(home.sh("ip route show proto 185; ip -6 route show proto 185"), "");
  apply(home, {.tunnels = {"ts1"}, .away = {away_box()}, .guests = {}});
  apply(home, {});
  EXPECT_EQ(state_of(home), with_route);
  (void)home.sh("ip route del 10.88.0.3 dev br0; ip -6 route del fd88::3 dev br0");
  EXPECT_EQ(state_of(home), before);
}

// A hold of a guest's packets is a route to a device, and the way back to who sent them is another one then.
TEST_F(PlacementNet, GuestsPacketsAreHeldWhereSourcesAreChecked) {
  place_box();
  (void)place.sh("sysctl -qw net.ipv4.conf.all.rp_filter=1; ip route add default via 10.6.0.2");
  loosen(place, "ts2");
  EXPECT_EQ(answers(client, "10.88.0.3"), "yes");
  (void)place.sh(
      "ip link add hold0 type veth peer name hold1; ip link set hold1 up; ip link set hold0 up arp off; "
      "ip route add 10.88.0.3 dev hold0; nft add table inet seen; nft add chain inet seen out '{ type filter hook "
      "postrouting priority 0; }'; nft add rule inet seen out oifname hold0 ip daddr 10.88.0.3 counter");
  EXPECT_EQ(answers(client, "10.88.0.3"), "no");
  EXPECT_THAT(place.sh("nft list table inet seen"), HasSubstr("counter packets 2 "));
  (void)place.sh("ip link del hold0; nft delete table inet seen");
  EXPECT_EQ(answers(client, "10.88.0.3"), "yes");
}

TEST_F(PlacementNet, WhoKnowsAnotherHardwareAddressIsToldAtOnce) {
  (void)sibling.sh(
      "ip neigh replace 10.88.0.3 lladdr 02:00:00:00:00:77 dev eth0 nud reachable; "
      "ip neigh replace fd88::3 lladdr 02:00:00:00:00:77 dev eth0 nud reachable");
  place_box();
  home.in([&] {
    for (const char* a : {"10.88.0.3", "fd88::3"}) {
      auto told = announce_neighbour("br0", address(a));
      EXPECT_TRUE(told) << told.error().message();
    }
  });
  EXPECT_EQ(answers(sibling, "10.88.0.3"), "yes");
  EXPECT_EQ(answers(sibling, "fd88::3"), "yes");
  auto bad = announce_neighbour("nosuch0", address("10.88.0.3"));
  ASSERT_FALSE(bad);
  EXPECT_THAT(bad.error().message(), HasSubstr("nosuch0"));
}

TEST_F(PlacementNet, NothingElsePassesTheTunnel) {
  place_box();
  (void)place.sh("ip addr add 10.88.0.77/32 dev lo; ip addr add 10.66.0.1/32 dev lo; ip route add 10.7.0.0/24 dev ts2");
  for (const char* forged : {"10.88.0.77", "10.66.0.1"})
    EXPECT_EQ(trim(place.sh(fmt::format("ping -c1 -W1 -I {} 10.7.0.2 >/dev/null && echo yes || echo no", forged))),
              "no");
  EXPECT_THAT(home.sh("nft list table inet transship_moved"), HasSubstr("counter packets 2 "));
}

TEST_F(PlacementNet, DifferencesAreFoundAndRepaired) {
  Placement away{.tunnels = {"ts1"}, .away = {away_box()}, .guests = {}};
  apply(home, away);
  home.in([&] { EXPECT_TRUE(PlacementKernel().compare(away)->empty()); });
  (void)home.sh(
      "ip route del 10.88.0.3 proto 185; ip route add 10.99.0.1 dev ts1 proto 185; "
      "ip neigh del proxy fd88::3 dev br0; nft delete table inet transship_moved");
  home.in([&] {
    auto d = PlacementKernel().compare(away);
    ASSERT_TRUE(d) << d.error().message();
    EXPECT_THAT(d->missing, ElementsAre("route to 10.88.0.3 through ts1", "answer for fd88::3 on br0",
                                        "firewall table inet transship_moved"));
    EXPECT_THAT(d->extra, ElementsAre("route to 10.99.0.1 through ts1"));
    ASSERT_TRUE(PlacementKernel().apply(away));
    EXPECT_TRUE(PlacementKernel().compare(away)->empty());
  });
  // The engine takes a bridge away with its last container.
  (void)home.sh("ip link del br0");
  apply(home, away);
  EXPECT_EQ(seen_as(client, "10.88.0.3", 80, box, 80).substr(0, 5), "error");  // nobody is there yet
  home.in([&] { EXPECT_TRUE(PlacementKernel().compare(away)->empty()); });
}

}  // namespace
}  // namespace transship::network
