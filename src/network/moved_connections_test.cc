#include "network/moved_connections.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>

#include "base/text.h"
#include "network/test_net.h"
#include "sys/process.h"

namespace transship::network {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::Net;

struct ConnectedPair {
  Fd server, client, listener;
};

// Connects `from` (text) to `to`, both on this host.
ConnectedPair connect_pair(int family, const std::string& to, uint16_t port) {
  ConnectedPair p;
  p.listener = Fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  p.client = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  int one = 1;
  (void)::setsockopt(p.listener.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  sockaddr_in6 any6 = {};
  any6.sin6_family = AF_INET6;
  any6.sin6_port = htons(port);
  sockaddr_in v4 = {};
  v4.sin_family = AF_INET;
  v4.sin_port = htons(port);
  auto* any = family == AF_INET6 ? reinterpret_cast<sockaddr*>(&any6) : reinterpret_cast<sockaddr*>(&v4);
  EXPECT_EQ(::bind(p.listener.get(), any, family == AF_INET6 ? sizeof any6 : sizeof v4), 0) << errno_text(errno);
  EXPECT_EQ(::listen(p.listener.get(), 1), 0);
  auto address = *IpAddress::parse(to);
  std::copy_n(address.data(), 4, reinterpret_cast<uint8_t*>(&v4.sin_addr));
  EXPECT_EQ(::connect(p.client.get(), reinterpret_cast<sockaddr*>(&v4), sizeof v4), 0) << errno_text(errno);
  p.server = Fd(::accept4(p.listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  return p;
}

struct Namespaced : ::testing::Test {
  void SetUp() override {
    if (auto why = testing::why_no_namespaces(); !why.empty()) GTEST_SKIP() << why;
  }
};

TEST_F(Namespaced, FindsConnectionsOfBothKindsOfSocket) {
  Net host("conns");
  (void)host.sh("ip addr add 10.7.0.1/24 dev lo");
  host.in([] {
    auto plain = connect_pair(AF_INET, "10.7.0.1", 5001);
    auto mapped = connect_pair(AF_INET6, "10.7.0.1", 5002);
    auto loopback = connect_pair(AF_INET, "127.0.0.1", 5003);
    // Threads have tables of their own namespace below their own id.
    auto found = established_connections(::gettid());
    ASSERT_TRUE(found) << found.error().message();
    size_t server_sides = 0;
    for (const auto& c : *found) {
      EXPECT_EQ(c.local.text(), "10.7.0.1");
      EXPECT_NE(c.local_port, 5003);
      if (c.local_port == 5001 || c.local_port == 5002) ++server_sides;
    }
    EXPECT_EQ(found->size(), 4U) << "two connections, both ends here";
    EXPECT_EQ(server_sides, 2U);
  });
}

TEST_F(Namespaced, TableComesAndGoes) {
  Net host("nft");
  const std::string id = "0123456789abcdef0123456789abcdef";
  std::vector<Connection> some;
  for (uint16_t i = 0; i < 2000; ++i) {
    some.push_back(
        {*IpAddress::parse("10.88.0.3"), 6379, *IpAddress::parse("10.1.0.2"), static_cast<uint16_t>(40'000 + i)});
  }
  some.push_back({*IpAddress::parse("2001:db8::3"), 6379, *IpAddress::parse("2001:db8::9"), 50'000});
  host.in([&] {
    for (int i = 0; i < 2; ++i) {  // the second replaces the first
      auto r = install_moved_connections(id, some);
      ASSERT_TRUE(r) << r.error().message();
    }
    EXPECT_THAT(*list_moved_connections(), ElementsAre("0123456789ab"));
    auto rules = sys::run_ok({.argv = {"nft", "list", "ruleset"}});
    EXPECT_THAT(rules->out, HasSubstr("10.88.0.3 . 6379 . 10.1.0.2 . 41999"));
    EXPECT_THAT(rules->out, HasSubstr("2001:db8::3 . 6379 . 2001:db8::9 . 50000"));
    ASSERT_TRUE(remove_moved_connections(id));
    ASSERT_TRUE(remove_moved_connections(id)) << "absent is fine";
    EXPECT_THAT(*list_moved_connections(), IsEmpty());
    EXPECT_EQ(sys::run_ok({.argv = {"nft", "list", "ruleset"}})->out, "");
  });
}

// A connection that this host has never seen the beginning of, behind Podman's kind of rules: its replies must keep
// their address and pass; everything else goes on being tracked.
TEST_F(Namespaced, RepliesOfAMovedConnectionPassPodmansRules) {
  Net host("host"), client("client"), box("box");
  join(client, "eth0", host, "c0");
  join(box, "eth0", host, "b0");
  (void)client.sh("ip addr add 10.1.0.2/24 dev eth0; ip route add default via 10.1.0.1");
  (void)box.sh("ip addr add 10.88.0.5/16 dev eth0; ip route add default via 10.88.0.1");
  (void)host.sh(
      "sysctl -qw net.ipv4.ip_forward=1 net.netfilter.nf_conntrack_tcp_loose=0; ip addr add 10.1.0.1/24 dev c0; ip "
      "addr add 10.88.0.1/16 dev b0; nft -f - <<'N'\n"
      "table inet netavark { chain post { type nat hook postrouting priority srcnat; ip saddr 10.88.0.0/16 ip daddr != "
      "10.88.0.0/16 masquerade; }\n"
      "chain forwarding { type filter hook forward priority filter; ct state invalid drop; ct state "
      "established,related accept; }\n}\nN");
  // The connection is made while the host has no tracking of it: exactly what a moved one looks like.
  (void)host.sh(
      "nft add table inet before; nft add chain inet before pre '{ type filter hook prerouting priority raw; }'; "
      "nft add rule inet before pre notrack");
  ConnectedPair p;
  box.in([&] {
    p.listener = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in a = {};
    a.sin_family = AF_INET;
    a.sin_port = htons(6379);
    ASSERT_EQ(::bind(p.listener.get(), reinterpret_cast<sockaddr*>(&a), sizeof a), 0);
    ASSERT_EQ(::listen(p.listener.get(), 4), 0);
  });
  client.in([&] {
    p.client = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    timeval limit = {.tv_sec = 2, .tv_usec = 0};
    (void)::setsockopt(p.client.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    sockaddr_in a = {};
    a.sin_family = AF_INET;
    a.sin_port = htons(6379);
    a.sin_addr.s_addr = htonl(0x0A580005);
    ASSERT_EQ(::connect(p.client.get(), reinterpret_cast<sockaddr*>(&a), sizeof a), 0);
  });
  p.server = Fd(::accept4(p.listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  std::vector<Connection> moved;
  box.in([&] { moved = *established_connections(::gettid()); });
  ASSERT_EQ(moved.size(), 1U);
  host.in([&] { ASSERT_TRUE(install_moved_connections("feedfacecafe", moved)); });
  (void)host.sh("nft delete table inet before");
  char byte = 'x';
  ASSERT_EQ(::write(p.server.get(), &byte, 1), 1);
  EXPECT_EQ(::read(p.client.get(), &byte, 1), 1) << "the reply did not come through";
  ASSERT_EQ(::write(p.client.get(), &byte, 1), 1);
  EXPECT_EQ(::read(p.server.get(), &byte, 1), 1);
  // And without the exception they do not: the rules above are the reason for it.
  host.in([&] { ASSERT_TRUE(remove_moved_connections("feedfacecafe")); });
  ASSERT_EQ(::write(p.server.get(), &byte, 1), 1);
  timeval short_limit = {.tv_sec = 0, .tv_usec = 300'000};
  (void)::setsockopt(p.client.get(), SOL_SOCKET, SO_RCVTIMEO, &short_limit, sizeof short_limit);
  EXPECT_EQ(::read(p.client.get(), &byte, 1), -1);
}

TEST(MovedConnections, EveryNameHasAKeyThatIsSafeInARule) {
  EXPECT_EQ(table_key("0123456789abcdef"), "0123456789ab");
  for (const char* name : {"", "redis", "0123456789aZ", "0123456789 ;"}) {
    auto key = table_key(name);
    EXPECT_EQ(key.size(), 12U) << name;
    EXPECT_EQ(key.find_first_not_of("0123456789abcdef"), std::string::npos) << name;
    EXPECT_EQ(table_key(key), key) << name;
  }
  EXPECT_NE(table_key("redis"), table_key("redis2"));
}

}  // namespace
}  // namespace transship::network
