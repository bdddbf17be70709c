//   client --10.7.0.0/24-- left --10.9.0.0/24, fd09::/64-- right --10.88.0.0/16-- box
//                          ($L)======= WireGuard =======($R)
// with the real wireguard-go.
#include "network/tunnel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>

#include "base/text.h"
#include "network/test_net.h"
#include "network/tunnel_table.h"
#include "sys/file.h"
#include "sys/process.h"
#include "sys/search_path.h"

namespace transship::network {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::join;
using testing::Net;
using ::testing::Not;

constexpr uint16_t kPort = 7441;
// Sockets and processes of wireguard-go are not of the network namespace, and tests run side by side. $L and $R for the
// shell.
const std::string kLeft = fmt::format("l{}", ::getpid());
const std::string kRight = fmt::format("r{}", ::getpid());

// A host with its end of the tunnel.
struct End {
  End(const std::string& name, const std::string& interface) : net(name) {
    std::string pattern = ::testing::TempDir() + "/tunnelXXXXXX";
    dir = ::mkdtemp(pattern.data());
    options = {.interface = interface, .port = kPort, .run_dir = dir + "/run", .kernel = false};
    begin();
  }
  ~End() {
    down();
    std::filesystem::remove_all(dir);
  }
  // As a new daemon does.
  void begin() { tunnel = std::make_unique<Tunnel>(options, *TunnelKey::load_or_create(dir + "/tunnel.key")); }
  Result<> set_peer(const TunnelPeer& peer) {
    Result<> done;
    net.in([&] { done = tunnel->set_peer(peer); });
    return done;
  }
  void down() {
    net.in([&] {
      auto done = take_tunnel_down(options);
      EXPECT_TRUE(done) << done.error().message();
    });
  }
  TunnelPeer as_peer(const std::string& name, const std::string& address) const {
    return {.name = name, .key = tunnel->public_key(), .endpoint = UdpEndpoint{*IpAddress::parse(address), kPort}};
  }
  bool reaches_peer(milliseconds limit = milliseconds(3000)) const {
    bool answered = false;
    net.in([&] {
      auto cancel = Cancel::create();
      answered = tunnel->ping_peer(Deadline::in(limit), *cancel).has_value();
    });
    return answered;
  }
  std::string dir;
  Net net;
  TunnelOptions options;
  std::unique_ptr<Tunnel> tunnel;
};

std::string why_no_tunnel() {
  if (auto why = testing::why_no_namespaces(); !why.empty()) return why;
  for (const char* program : {"wireguard-go", "wg"}) {
    if (!sys::find_program(program)) return fmt::format("no program {}", program);
  }
  return {};
}

struct TunnelTest : ::testing::Test {
  static void SetUpTestSuite() {
    (void)::setenv("L", kLeft.c_str(), 1);
    (void)::setenv("R", kRight.c_str(), 1);
  }
  void SetUp() override {
    if (auto why = why_no_tunnel(); !why.empty()) GTEST_SKIP() << why;
    left = std::make_unique<End>("left", kLeft);
    right = std::make_unique<End>("right", kRight);
    join(left->net, "ul", right->net, "ur");
    (void)left->net.sh("ip addr add 10.9.0.1/24 dev ul; ip addr add fd09::1/64 dev ul nodad");
    (void)right->net.sh("ip addr add 10.9.0.2/24 dev ur; ip addr add fd09::2/64 dev ur nodad");
  }
  void pair(const std::string& left_address, const std::string& right_address) {
    auto a = left->set_peer(right->as_peer("right", right_address));
    ASSERT_TRUE(a) << a.error().message();
    auto b = right->set_peer(left->as_peer("left", left_address));
    ASSERT_TRUE(b) << b.error().message();
  }
  void pair_v4() { pair("10.9.0.1", "10.9.0.2"); }
  std::unique_ptr<End> left, right;
  const TunnelPeer nobody{.name = "nobody",
                          .key = TunnelKey::load_or_create(::testing::TempDir() + "/nobody.key")->public_key(),
                          .endpoint = {}};
};

TEST_F(TunnelTest, BothEndsAnswerOverIpv4) {
  EXPECT_THAT(left->tunnel->status().backend, HasSubstr("none: "));
  pair_v4();
  EXPECT_TRUE(left->reaches_peer());
  EXPECT_TRUE(right->reaches_peer());
  auto status = left->tunnel->status();
  EXPECT_EQ(status.backend, "wireguard-go");
  EXPECT_TRUE(status.up);
  EXPECT_EQ(status.mtu, 1440U);
  left->net.in([&] {
    auto peer = left->tunnel->peer();
    ASSERT_TRUE(peer) << peer.error().message();
    EXPECT_EQ(peer->first, "right");
    EXPECT_TRUE(peer->second.answers());
    EXPECT_GT(peer->second.received_bytes, 0U);
  });
}

TEST_F(TunnelTest, BothEndsAnswerOverIpv6AndASmallerWayMakesItSmaller) {
  (void)left->net.sh("ip link set ul mtu 1400");
  pair("fd09::1", "fd09::2");
  EXPECT_TRUE(left->reaches_peer());
  EXPECT_EQ(left->tunnel->status().mtu, 1320U);
  EXPECT_EQ(right->tunnel->status().mtu, 1420U);
}

// wireguard-go sends to fd09:: instead of fd09::2 where it had the buffer for IPv4 before.
TEST_F(TunnelTest, OverIpv6AfterIpv4AHandshakeIsHurried) {
  auto other = *TunnelKey::load_or_create(left->dir + "/other.key");
  TunnelPeer silent{
      .name = "silent", .key = other.public_key(), .endpoint = UdpEndpoint{*IpAddress::parse("10.9.0.7"), kPort}};
  ASSERT_TRUE(left->set_peer(silent));
  ASSERT_TRUE(right->set_peer(silent));
  (void)left->reaches_peer(milliseconds(300));
  (void)right->reaches_peer(milliseconds(300));
  pair("fd09::1", "fd09::2");
  auto hurry = [](End& end) {
    size_t hurried = 0;
    end.net.in([&] { hurried = end.tunnel->hurry_peer().value_or(99); });
    return hurried;
  };
  bool reached = left->reaches_peer(milliseconds(300));
  for (int i = 0; i < 20 && !reached; ++i) {
    EXPECT_LE(hurry(*left), 1U);
    reached = left->reaches_peer(milliseconds(300));
  }
  EXPECT_TRUE(reached);
  EXPECT_EQ(hurry(*left), 0U) << "it has answered";
}

TEST_F(TunnelTest, WhereTheKernelHasItTheKernelsIsTaken) {
  left->options.kernel = true;
  left->begin();
  pair_v4();
  EXPECT_THAT(left->tunnel->status().backend, AnyOf("kernel", "wireguard-go"));
  EXPECT_TRUE(left->reaches_peer());
}

TEST_F(TunnelTest, ANewDaemonAdoptsWhatRunsAndChangesNothing) {
  pair_v4();
  ASSERT_TRUE(left->reaches_peer());
  auto state = [&] {
    return left->net.sh(
        "ip -o link show $L; wg show $L dump | cut -f1-5; pgrep -fx \"wireguard-go -f $L\"; ip -6 addr show $L");
  };
  auto before = state();
  left->begin();
  auto again = left->set_peer(right->as_peer("right", "10.9.0.2"));
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ(state(), before);
  EXPECT_EQ(left->tunnel->status().backend, "wireguard-go");
}

TEST_F(TunnelTest, AKilledProcessIsReplaced) {
  pair_v4();
  ASSERT_TRUE(left->reaches_peer());
  (void)left->net.sh(
      "kill -KILL $(pgrep -fx \"wireguard-go -f $L\"); while pgrep -fx \"wireguard-go -f $L\" || ip link show $L; do "
      "sleep "
      "0.01; done >/dev/null 2>&1");
  bool noticed = false;  // the interface goes before the last thread
  for (int i = 0; i < 300 && !noticed; ++i, ::usleep(10'000)) noticed = left->tunnel->notice_end();
  EXPECT_TRUE(noticed);
  EXPECT_FALSE(left->tunnel->notice_end()) << "said once";
  EXPECT_FALSE(left->tunnel->status().up);
  auto again = left->set_peer(right->as_peer("right", "10.9.0.2"));
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_TRUE(left->reaches_peer(milliseconds(10'000)));
  EXPECT_FALSE(left->tunnel->notice_end());
}

TEST_F(TunnelTest, AnotherPeerTakesTheFirstOnesPlace) {
  pair_v4();
  ASSERT_TRUE(left->reaches_peer());
  auto other = *TunnelKey::load_or_create(left->dir + "/third.key");
  ASSERT_TRUE(right->set_peer({.name = "third", .key = other.public_key(), .endpoint = {}}));
  EXPECT_FALSE(left->reaches_peer(milliseconds(600)));
  EXPECT_EQ(trim(right->net.sh("wg show $R peers")), other.public_key().text());
}

// What passes through fits; a peer's own address reaches nothing but the answer to a ping.
TEST_F(TunnelTest, ContainersTalkThroughItAndPeersDoNot) {
  Net client("client"), box("box");
  join(client, "eth0", left->net, "c0");
  join(box, "eth0", right->net, "b0");
  pair_v4();
  (void)client.sh("ip addr add 10.7.0.2/24 dev eth0; ip route add default via 10.7.0.1");
  (void)box.sh("ip addr add 10.88.0.5/16 dev eth0; ip route add default via 10.88.0.1");
  (void)left->net.sh("sysctl -qw net.ipv4.ip_forward=1; ip addr add 10.7.0.1/24 dev c0; ip route add 10.88.0.5 dev $L");
  (void)right->net.sh(
      "sysctl -qw net.ipv4.ip_forward=1; ip addr add 10.88.0.1/16 dev b0; ip route add 10.7.0.2 dev $R");
  EXPECT_EQ(client.sh("ping -c1 -W1 10.88.0.5 >/dev/null && echo yes || echo no"), "no\n");
  for (auto* host : {&left->net, &right->net})
    (void)host->sh(
        "nft add table inet let_pass; nft 'add chain inet let_pass c { type filter hook forward priority 0; }'; "
        "nft add rule inet let_pass c meta mark set 0x760000");
  Fd listener, client_side;
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_port = htons(6379);
  box.in([&] {
    listener = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
    ASSERT_EQ(::listen(listener.get(), 1), 0);
  });
  to.sin_addr.s_addr = htonl(0x0A580005);
  client.in([&] {
    client_side = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    timeval limit = {.tv_sec = 5, .tv_usec = 0};
    (void)::setsockopt(client_side.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    ASSERT_EQ(::connect(client_side.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0) << errno_text(errno);
  });
  Fd server(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  for (int side : {server.get(), client_side.get()}) {
    int segment = 0;
    socklen_t size = sizeof segment;
    ASSERT_EQ(::getsockopt(side, IPPROTO_TCP, TCP_MAXSEG, &segment, &size), 0);
    EXPECT_LE(segment, 1440 - 40);
    EXPECT_GE(segment, 1440 - 60);
  }
  // A service of the other host is not for peers.
  right->net.in([&] {
    Fd service(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in6 any = {};
    any.sin6_family = AF_INET6;
    any.sin6_port = htons(22);
    ASSERT_EQ(::bind(service.get(), reinterpret_cast<sockaddr*>(&any), sizeof any), 0);
    ASSERT_EQ(::listen(service.get(), 1), 0);
    EXPECT_EQ(left->net.sh(fmt::format("timeout 1 bash -c 'exec 3<>/dev/tcp/{}/22' 2>&1 && echo open || echo shut",
                                       right->tunnel->address().text())),
              "shut\n");
  });
}

TEST_F(TunnelTest, DownLeavesNothing) {
  auto state = [&] {
    return left->net.sh(
        "ip -o link | cut -d: -f2; ip -6 route show table all | grep -v fe80 || true; nft list tables; "
        "pgrep -fx \"wireguard-go -f $L\" || true; ls -A " +
        left->options.run_dir);
  };
  ASSERT_TRUE(sys::make_dirs(left->options.run_dir));
  // The kernel gives a new interface's routes their time.
  auto before = state();
  for (std::string earlier; earlier != before;) {
    earlier = before;
    (void)left->net.sh("sleep 0.3");
    before = state();
  }
  pair_v4();
  ASSERT_TRUE(left->reaches_peer());
  EXPECT_NE(state(), before);
  left->down();
  EXPECT_THAT(before, Not(HasSubstr(kLeft)));
  right->down();
  EXPECT_EQ(state(), before);
  EXPECT_FALSE(std::filesystem::exists(fmt::format("/var/run/wireguard/{}.sock", kLeft)));
  left->down();  // absent is fine
  EXPECT_TRUE(std::filesystem::exists(left->dir + "/tunnel.key"));
}

TEST_F(TunnelTest, WhatIsNotOursIsLeftAlone) {
  (void)left->net.sh("ip link add $L type bridge");
  auto r = left->set_peer(nobody);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kAlreadyExists);
  EXPECT_THAT(r.error().remedy(), HasSubstr("tunnel.interface"));
  EXPECT_THAT(left->tunnel->status().backend, HasSubstr("none: "));
  left->down();
  EXPECT_THAT(left->net.sh("ip -o link"), HasSubstr(kLeft));
  (void)left->net.sh("ip link del $L");
}

TEST_F(TunnelTest, AnInterfaceWithAnotherKeyIsNotTakenOver) {
  ASSERT_TRUE(left->set_peer(nobody));
  TunnelOptions options = left->options;
  options.run_dir = left->dir + "/other";
  Tunnel other(options, *TunnelKey::load_or_create(left->dir + "/other.key"));
  left->net.in([&] {
    auto r = other.set_peer(nobody);
    ASSERT_FALSE(r);
    EXPECT_THAT(r.error().message(), HasSubstr("key that is not this node's"));
  });
  EXPECT_THAT(left->net.sh("wg show $L public-key"), HasSubstr(left->tunnel->public_key().text()));
}

TEST_F(TunnelTest, AKeyThatWasMadeAnewReplacesTheOldOne) {
  pair_v4();
  std::filesystem::remove(left->dir + "/tunnel.key");
  left->begin();
  pair_v4();
  EXPECT_TRUE(left->reaches_peer(milliseconds(10'000)));
}

TEST_F(TunnelTest, APortThatSomebodyHasIsSaid) {
  Fd taken;
  left->net.in([&] {
    taken = Fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_in a = {};
    a.sin_family = AF_INET;
    a.sin_port = htons(kPort);
    ASSERT_EQ(::bind(taken.get(), reinterpret_cast<sockaddr*>(&a), sizeof a), 0);
  });
  auto r = left->set_peer(nobody);
  ASSERT_FALSE(r);
  EXPECT_THAT(r.error().message(), HasSubstr("UDP port 7441"));
  EXPECT_THAT(r.error().remedy(), HasSubstr("tunnel.port"));
}

}  // namespace
}  // namespace transship::network
