//                       port 8080 → box:80
//   client --10.6.0.0/24-- entry ====ts0==ts1==== home ====ts2==ts0==== place
//            local .5 --10.88.0.0/16--|             |--10.88.0.0/16 (each has its own), fd88::/64
//
// box (.3) is at home on home's network; its cable can be put into any of the three. ts are pairs without link
// addresses, as a tunnel is.
#include "network/exposure.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/text.h"
#include "base/thread.h"
#include "network/moved_connections.h"
#include "network/placement.h"
#include "network/test_net.h"

namespace transship::network {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::join;
using testing::Net;
using ::testing::Not;
using ::testing::StartsWith;

IpAddress address(std::string_view text) { return *IpAddress::parse(text); }
const std::vector<IpAddress> kBox = {address("10.88.0.3"), address("fd88::3")};

std::vector<EntryPort> entries(const std::string& tunnel) {
  std::vector<EntryPort> all;
  for (const char* protocol : {"tcp", "udp"})
    all.push_back({.protocol = protocol,
                   .port = 8080,
                   .addresses = {{kBox[0], 16}, {kBox[1], 64}},
                   .container_port = 80,
                   .tunnel = tunnel});
  return all;
}
std::vector<ExposedPort> exposed(const std::string& tunnel) {
  return {{"tcp", kBox, 80, tunnel}, {"udp", kBox, 80, tunnel}};
}

TEST(Exposure, TunnelsHaveNumbers) {
  EXPECT_EQ(*tunnel_number_of("ts0"), 0U);
  EXPECT_EQ(*tunnel_number_of("wg-a63"), 63U);
  for (const char* bad : {"ts", "ts64", "ts99999999999999999999"}) EXPECT_FALSE(tunnel_number_of(bad)) << bad;
  Placement p{.tunnels = {"ts64"}, .away = {}, .guests = {}, .entries = entries("ts64")};
  EXPECT_FALSE(wanted_state(p));
}

TEST(Exposure, SourcesAreTheNodesOwn) {
  auto a = entry_sources("SHA256:a"), b = entry_sources("SHA256:b");
  ASSERT_EQ(a.size(), 2U);
  EXPECT_TRUE(a[0].is_v4() && !a[1].is_v4());
  EXPECT_THAT(a[0].text(), ::testing::AnyOf(StartsWith("198.18."), StartsWith("198.19.")));
  EXPECT_THAT(a[1].text(), StartsWith("fd79:1ec1:2cc3:"));
  EXPECT_EQ(a, entry_sources("SHA256:a"));
  EXPECT_NE(a, b);
}

TEST(Exposure, RoutesAndRulesForEachTunnel) {
  auto s = wanted_state({.tunnels = {"ts0", "ts3"}, .away = {}, .guests = {}, .entries = entries("ts3")});
  ASSERT_TRUE(s) << s.error().message();
  EXPECT_THAT(s->routes,
              ElementsAre(PlacedRoute{"default", false, "ts3", 74303}, PlacedRoute{"default", true, "ts3", 74303}));
  EXPECT_THAT(s->rules, ElementsAre(PlacedRule{.priority = 7398, .v4 = false, .mark = 0x830000, .table = 74303},
                                    PlacedRule{.priority = 7398, .v4 = true, .mark = 0x830000, .table = 74303}));
  EXPECT_THAT(route_changes({}, *s, true),
              HasSubstr("rule add pref 7398 fwmark 0x830000/0xff0000 table 74303 protocol 185\n"));
}

// For HAProxy on the entry, and for nobody else: no rule for what comes in.
TEST(Exposure, OfTheGatewayIsReachedFromTheHostOnly) {
  for (const char* tunnel : {"", "ts3"}) {
    EntryPort e{.port = 20'001, .addresses = {{kBox[0], 16}}, .container_port = 80, .tunnel = tunnel, .inner = true};
    Placement p{.tunnels = {"ts3"}, .away = {}, .guests = {}, .entries = {e}};
    p.entry_sources = entry_sources("SHA256:own");
    EXPECT_THAT(entry_port_rules(p, false), "");
    EXPECT_THAT(entry_port_rules(p, true),
                HasSubstr("ip daddr 169.254.185.80 tcp dport 20001 dnat ip to 10.88.0.3:80\n"));
    EXPECT_THAT(entry_zone_rules(p, false), Not(HasSubstr("20001")));
    EXPECT_THAT(entry_source_rules(p), HasSubstr("snat ip to " + p.entry_sources[0].text()));
    EXPECT_THAT(entry_stray_rules(p, true), HasSubstr("ip saddr " + p.entry_sources[0].text() + " tcp flags"));
    p.entries[0].shut = true;
    EXPECT_THAT(entry_zone_rules(p, false), Not(HasSubstr("drop")));
    EXPECT_THAT(entry_zone_rules(p, true), HasSubstr("ip daddr 169.254.185.80 tcp dport 20001 drop\n"));
  }
  EXPECT_EQ(inner_address(false).text(), "fd80:ebe5:8657::80");
}

// Nothing of tunnels and zones: as a port that the engine has published.
TEST(Exposure, OfTheHomeItselfIsAPublishedPort) {
  Placement p{.tunnels = {}, .away = {}, .guests = {}, .entries = entries("")};
  EXPECT_EQ(*wanted_state(p), PlacedState{});
  auto script = firewall_script(p);
  EXPECT_THAT(script, HasSubstr("fib daddr type local tcp dport 8080 dnat ip to 10.88.0.3:80\n"));
  EXPECT_THAT(script, HasSubstr("fib daddr type local udp dport 8080 dnat ip6 to [fd88::3]:80\n"));
  EXPECT_THAT(script, Not(HasSubstr("zone")));
  EXPECT_THAT(script, Not(HasSubstr("mark")));
}

// Says whom it sees, and then what it is told.
constexpr auto kServe = R"(
import socket,threading
def stream(c,a):
  c.sendall((a[0]+"\n").encode())
  while (d:=c.recv(999)): c.sendall(d)
def tcp():
  s=socket.create_server(("",80),family=socket.AF_INET6,dualstack_ipv6=True)
  print("ready",flush=True)
  while True:
    c,a=s.accept(); threading.Thread(target=stream,args=(c,a),daemon=True).start()
threading.Thread(target=tcp,daemon=True).start()
u=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM); u.setsockopt(socket.IPPROTO_IPV6,socket.IPV6_V6ONLY,0); u.bind(("::",80))
while True:
  d,a=u.recvfrom(999)
  if d==b"end": break
  u.sendto((a[0]+"\n").encode(),a)
)";
constexpr auto kAsk = R"(
import socket,sys
f=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
try:
  c=socket.socket(f,socket.SOCK_STREAM if sys.argv[3]=="tcp" else socket.SOCK_DGRAM); c.settimeout(2); c.connect((sys.argv[1],int(sys.argv[2])))
  if sys.argv[3]=="udp": c.send(b"who")
  print(c.recv(99).decode().strip().removeprefix("::ffff:"))
except OSError as e: print("error",e)
)";
// One connection, a word and its echo each 20 ms, until a file says otherwise; "ok N longest-ms" or what went wrong.
constexpr auto kTalk = R"(
import os,socket,sys,time
try:
  c=socket.create_connection((sys.argv[1],int(sys.argv[2])),5); c.settimeout(20); c.recv(99)
  n=0; longest=0
  while not os.path.exists(sys.argv[3]):
    w=b"%08d"%n; t=time.monotonic(); c.sendall(w); got=b""
    while len(got)<8:
      d=c.recv(8-len(got)); assert d,"closed"; got+=d
    assert got==w,(got,w); longest=max(longest,time.monotonic()-t); n+=1; time.sleep(.02)
  print("ok",n,int(longest*1000))
except Exception as e: print("error",repr(e))
)";

struct ExposureNet : ::testing::Test {
  void SetUp() override {
    if (auto why = testing::why_no_namespaces(); !why.empty()) GTEST_SKIP() << why;
    for (auto* host : {&entry, &home, &place}) make_host(*host);
    for (auto* n : {&client, &local, &box}) (void)n->sh("sysctl -qw net.ipv6.conf.default.accept_dad=0");
    join(client, "eth0", entry, "wan0");
    join(local, "eth0", entry, "l0");
    join(box, "eth0", home, "b0");
    join(entry, "ts0", home, "ts1");
    join(home, "ts2", place, "ts0");
    (void)entry.sh(
        "ip addr add 10.6.0.1/24 dev wan0; ip addr add fd06::1/64 dev wan0 nodad; ip link set l0 master br0");
    (void)client.sh("ip addr add 10.6.0.2/24 dev eth0; ip addr add fd06::2/64 dev eth0 nodad");
    (void)home.sh("ip link set b0 master br0");
    for (auto [net, a] : {std::pair(&local, 5), std::pair(&box, 3)})
      (void)net->sh(
          fmt::format("ip addr add 10.88.0.{0}/16 dev eth0; ip addr add fd88::{0}/64 dev eth0 nodad; "
                      "ip route add default via 10.88.0.1; ip -6 route add default via fd88::1",
                      a));
    for (auto [net, link] :
         {std::pair(&entry, "ts0"), std::pair(&home, "ts1"), std::pair(&home, "ts2"), std::pair(&place, "ts0")})
      (void)net->sh(
          fmt::format("ip link set {0} address 02:00:00:00:00:01 arp off; ip addr add 192.0.0.8/32 dev {0}", link));
    server = Thread("server", [this] { (void)box.sh(fmt::format("timeout 100 python3 -c '{}' >/dev/null", kServe)); });
    (void)box.sh("for i in $(seq 50); do ss -ltn | grep -q :80 && break; sleep 0.1; done");
  }
  void TearDown() override {
    if (!server.joinable()) return;
    (void)box.sh(
        "python3 -c 'import socket; "
        "socket.socket(socket.AF_INET,socket.SOCK_DGRAM).sendto(b\"end\",(\"127.0.0.1\",80))'");
    server.join();
  }
  // What engines have; replies find no way back by themselves.
  static void make_host(const Net& host) {
    (void)host.sh(
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0 "
        "net.ipv4.conf.default.rp_filter=2; ip link add br0 type bridge; ip link set br0 up; "
        "ip addr add 10.88.0.1/16 dev br0; ip addr add fd88::1/64 dev br0 nodad; ip route add default dev br0; "
        "nft -f - <<E\ntable inet engine { chain out { type nat hook postrouting priority srcnat;\n"
        "ip saddr 10.88.0.0/16 ip daddr != 10.88.0.0/16 masquerade\n"
        "ip6 saddr fd88::/64 ip6 daddr != fd88::/64 masquerade\n}\n"
        "chain forward { type filter hook forward priority filter; ct state invalid drop\n}\n}\nE\n");
  }
  static void apply(const Net& net, const Placement& placement) {
    net.in([&] {
      auto done = PlacementKernel().apply(placement);
      EXPECT_TRUE(done) << net.name() << ": " << done.error().message();
      auto differs = PlacementKernel().compare(placement);
      EXPECT_TRUE(differs && differs->empty()) << net.name();
    });
  }
  // Before its cable is moved there, connections that it has are taken out of tracking, as at a move.
  void put_box(const Net& from, const Net& to, const std::string& away_by) {
    auto other = fmt::format("/proc/{}/fd/{}", ::getpid(), to.fd());
    if (&to != &home) {
      std::vector<Connection> connections;
      box.in([&] { connections = *established_connections(::gettid()); });
      std::erase_if(connections,
                    [](const auto& c) { return c.local.text() != "10.88.0.3" && c.local.text() != "fd88::3"; });
      to.in([&] { EXPECT_TRUE(install_moved_connections("abcdef012345", connections)); });
    }
    if (&from != &home) from.in([] { EXPECT_TRUE(remove_moved_connections("abcdef012345")); });
    (void)from.sh(fmt::format("ip link set b0 netns {}", other));
    (void)to.sh("ip link set b0 master br0 up");
    Placement at_home{.tunnels = {"ts1", "ts2"}, .away = {}, .guests = {}, .entries = {}, .exposed = exposed("ts1")};
    if (!away_by.empty()) at_home.away.push_back({.id = "box", .addresses = kBox, .tunnel = away_by, .bridge = "br0"});
    apply(home, at_home);
    for (auto* host : {&entry, &place}) {
      Placement p{.tunnels = {"ts0"}, .away = {}, .guests = {}};
      if (host == &to) p.guests.push_back({.id = "box", .addresses = kBox, .tunnel = "ts0", .bridge = "br0"});
      if (host == &entry) p.entries = entries("ts0");
      if (host == &entry) p.entry_sources = sources;
      apply(*host, p);
    }
    if (&to != &home) box.in([] { EXPECT_TRUE(set_gateway_routes()); });
  }
  static std::string seen_as(const Net& from, const std::string& to, std::string_view protocol = "tcp") {
    return std::string(trim(from.sh(fmt::format("python3 -c '{}' {} 8080 {}", kAsk, to, protocol))));
  }
  void expect_reached(const std::string& where) {
    for (const char* protocol : {"tcp", "udp"})
      EXPECT_EQ(seen_as(client, "10.6.0.1", protocol), "10.6.0.2") << where << " " << protocol;
    EXPECT_EQ(seen_as(client, "fd06::1"), "fd06::2") << where;
    // Its own processes, and a neighbour by a prefix that both hosts have.
    EXPECT_EQ(seen_as(entry, "10.6.0.1"), sources[0].text()) << where;
    EXPECT_EQ(seen_as(entry, "fd06::1", "udp"), sources[1].text()) << where;
    EXPECT_EQ(seen_as(local, "10.6.0.1"), sources[0].text()) << where;
  }
  static std::string state_of(const Net& net) {
    return net.sh(
        "ip rule; ip -6 rule; ip route show table all | grep -v '^broadcast\\|cache' | sort; "
        "ip -6 route show table all | sort; nft list tables");
  }
  const std::vector<IpAddress> sources = entry_sources("SHA256:entry");
  Net client{"client"}, entry{"entry"}, home{"home"}, place{"place"}, local{"local"}, box{"box"};
  Thread server;
};

TEST_F(ExposureNet, LeadsToBoxWhereverItIs) {
  auto entry_before = state_of(entry), home_before = state_of(home);
  put_box(home, home, "");
  expect_reached("at home");
  put_box(home, place, "ts2");
  expect_reached("away");
  put_box(place, entry, "ts1");
  expect_reached("on the entry");
  put_box(entry, home, "");
  expect_reached("home again");
  apply(entry, {});
  apply(home, {});
  EXPECT_THAT(seen_as(client, "10.6.0.1"), StartsWith("error"));
  EXPECT_EQ(state_of(entry), entry_before);
  EXPECT_EQ(state_of(home), home_before);
}

TEST_F(ExposureNet, OpenConnectionsGoOnOverAllMoves) {
  put_box(home, home, "");
  auto stop = fmt::format("/tmp/exposure-test-{}", ::getpid());
  std::vector<std::string> outcomes(3);
  std::vector<Thread> talkers;
  auto talk = [&](size_t i, const Net& from, std::string to) {
    talkers.emplace_back("talk", [&, i, to] {
      outcomes[i] = from.sh(fmt::format("timeout 90 python3 -c '{}' {} 8080 {}", kTalk, to, stop));
    });
  };
  talk(0, client, "10.6.0.1");
  talk(1, client, "fd06::1");
  talk(2, entry, "10.6.0.1");
  (void)client.sh("sleep 0.5");
  const Net* at = &home;
  for (auto [to, by] :
       {std::pair(&entry, "ts1"), std::pair(&place, "ts2"), std::pair(&entry, "ts1"), std::pair(&home, "")}) {
    put_box(*at, *to, by);
    at = to;
    (void)client.sh("sleep 0.8");
  }
  // No way for a while: nobody is told that the connection is unknown.
  auto shut = entries("");
  for (auto& e : shut) e.shut = true;
  apply(entry, {.tunnels = {"ts0"}, .away = {}, .guests = {}, .entries = shut});
  apply(home, {.tunnels = {"ts1"}, .away = {}, .guests = {}, .entries = {}, .exposed = exposed("")});
  (void)client.sh("sleep 1");
  put_box(home, home, "");
  (void)client.sh("sleep 1; touch " + stop);
  for (auto& t : talkers) t.join();
  (void)client.sh("rm " + stop);
  for (const auto& outcome : outcomes) EXPECT_THAT(outcome, StartsWith("ok "));
}

TEST_F(ExposureNet, OnlyWhatIsExposedPasses) {
  put_box(home, home, "");
  (void)entry.sh("ip route add 10.88.0.3 dev ts0 src 10.6.0.1");  // as if it were its own affair
  auto ask = [&](uint16_t port) {
    return std::string(trim(entry.sh(fmt::format("python3 -c '{}' 10.88.0.3 {} tcp", kAsk, port))));
  };
  EXPECT_THAT(ask(81), StartsWith("error"));  // nobody is there, and nobody says so either
  EXPECT_THAT(home.sh("nft list chain inet transship_moved passing"),
              ::testing::ContainsRegex("iifname \"ts1\" counter packets [1-9]"));
}

// A home that names an address of the entry gets nothing of the entry's own.
TEST_F(ExposureNet, AnAddressOfTheEntryLeadsNowhere) {
  (void)entry.sh("ip addr add 10.88.0.3/32 dev lo");
  put_box(home, home, "");
  Thread server80("server", [&] {
    (void)entry.sh("timeout 3 python3 -m http.server 80 --bind 10.88.0.3 >/dev/null 2>&1 || true");
  });
  (void)entry.sh("sleep 1");
  EXPECT_THAT(seen_as(client, "10.6.0.1"), StartsWith("error"));
  EXPECT_THAT(seen_as(entry, "10.6.0.1"), StartsWith("error"));
}

TEST(Exposure, WithoutAWayClientsWait) {
  auto shut = entries("");
  for (auto& e : shut) e.shut = true;
  Placement p{.tunnels = {}, .away = {}, .guests = {}, .entries = shut, .exposed = exposed("")};
  EXPECT_EQ(*wanted_state(p), PlacedState{});
  auto script = firewall_script(p);
  EXPECT_THAT(script, HasSubstr("meta nfproto ipv4 fib daddr type local tcp dport 8080 drop\n"));
  EXPECT_THAT(script,
              HasSubstr("ct mark & 0xc00000 == 0xc00000 ct direction reply meta mark & 0xc00000 != 0x800000 drop\n"));
  EXPECT_THAT(script, Not(HasSubstr("dnat")));
}

// While the tunnel is away nobody else gets the packets; connections wait.
TEST_F(ExposureNet, WithoutItsTunnelItLeadsNowhere) {
  put_box(home, home, "");
  (void)entry.sh("ip link set ts0 down; ip route add 10.88.0.3 via 10.6.0.2 dev wan0");
  (void)client.sh("ip addr add 10.88.0.3/32 dev lo");
  Thread wrong("wrong", [&] {
    (void)client.sh("timeout 3 python3 -m http.server 80 --bind 10.88.0.3 >/dev/null 2>&1 || true");
  });
  (void)entry.sh("sleep 1");
  EXPECT_THAT(seen_as(entry, "10.6.0.1"), StartsWith("error"));
}

// Its own container with the same address is another one.
TEST_F(ExposureNet, TheEntryHasAContainerWithTheSameAddress) {
  put_box(home, home, "");
  Net twin{"twin"};
  join(twin, "eth0", entry, "t0");
  (void)entry.sh("ip link set t0 master br0");
  (void)twin.sh("ip addr add 10.88.0.3/16 dev eth0; ip route add default via 10.88.0.1");
  (void)client.sh("ip route add 10.88.0.0/16 via 10.6.0.1");
  EXPECT_EQ(trim(client.sh("ping -c1 -W1 10.88.0.3 >/dev/null && echo yes || echo no")), "yes");
  EXPECT_EQ(seen_as(client, "10.6.0.1"), "10.6.0.2");
}

TEST_F(ExposureNet, OnTheHomeItself) {
  put_box(home, home, "");
  Net sibling{"sibling"}, visitor{"visitor"};
  join(sibling, "eth0", home, "s0");
  join(visitor, "eth0", home, "wan0");
  (void)home.sh("ip link set s0 master br0; ip addr add 10.7.0.1/24 dev wan0");
  (void)sibling.sh("ip addr add 10.88.0.6/16 dev eth0; ip route add default via 10.88.0.1");
  (void)visitor.sh("ip addr add 10.7.0.2/24 dev eth0");
  for (bool away : {false, true}) {
    if (away) put_box(home, place, "ts2");
    Placement p{.tunnels = {"ts1", "ts2"}, .away = {}, .guests = {}, .entries = entries("")};
    if (away) p.away.push_back({.id = "box", .addresses = kBox, .tunnel = "ts2", .bridge = "br0"});
    apply(home, p);
    for (const char* protocol : {"tcp", "udp"}) {
      EXPECT_EQ(seen_as(visitor, "10.7.0.1", protocol), "10.7.0.2") << away << protocol;
      EXPECT_EQ(seen_as(sibling, "10.7.0.1", protocol), "10.7.0.1") << away << protocol;
      EXPECT_EQ(seen_as(home, "10.7.0.1", protocol), "10.7.0.1") << away << protocol;
    }
  }
}

}  // namespace
}  // namespace transship::network
