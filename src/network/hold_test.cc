// The real thing between namespaces: a client, a host with Podman's kind of rules, a container behind its bridge, and
// the host the container moves to.
//
//   client 10.1.0.2 --- 10.1.0.1 host 10.88.0.1 --- 10.88.0.5 box
//                                host 10.2.0.1  --- 10.2.0.2 other (answers for 10.88.0.5 after the move)
#include "network/hold.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cstring>

#include "base/thread.h"
#include "network/moved_connections.h"
#include "network/test_net.h"
#include "sys/process.h"

namespace transship::network {
namespace {

using ::testing::HasSubstr;
using testing::Net;
using ::testing::Not;

constexpr uint16_t kPort = 7000;

sockaddr_in at(uint32_t address, uint16_t port) {
  sockaddr_in a = {};
  a.sin_family = AF_INET;
  a.sin_port = htons(port);
  a.sin_addr.s_addr = htonl(address);
  return a;
}
constexpr uint32_t kBox = 0x0A580005;   // 10.88.0.5
constexpr uint32_t kHost = 0x0A010001;  // 10.1.0.1

Fd udp_at(uint16_t port) {
  Fd s(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  auto a = at(INADDR_ANY, port);
  EXPECT_EQ(::bind(s.get(), reinterpret_cast<sockaddr*>(&a), sizeof a), 0);
  int buffer = 64 << 20;
  (void)::setsockopt(s.get(), SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer);
  return s;
}

struct Numbered {
  uint32_t number;
  std::array<char, 1000> rest;
};

// Reads until nothing came for `quiet_ms`.
std::vector<uint32_t> received(const Fd& s, int quiet_ms) {
  std::vector<uint32_t> numbers;
  pollfd p = {s.get(), POLLIN, 0};
  Numbered n = {};
  while (::poll(&p, 1, quiet_ms) == 1 && ::recv(s.get(), &n, sizeof n, 0) == sizeof n) numbers.push_back(n.number);
  return numbers;
}

void send_numbers(const Fd& s, uint32_t address, uint16_t port, uint32_t from, uint32_t count) {
  Numbered n = {};
  auto to = at(address, port);
  for (uint32_t i = 0; i < count; ++i) {
    n.number = from + i;
    ASSERT_EQ(::sendto(s.get(), &n, sizeof n, 0, reinterpret_cast<sockaddr*>(&to), sizeof to),
              static_cast<ssize_t>(sizeof n))
        << errno_text(errno);
  }
}

void expect_row(const std::vector<uint32_t>& numbers, uint32_t count) {
  ASSERT_EQ(numbers.size(), count);
  size_t out_of_order = 0;
  for (uint32_t i = 0; i < count; ++i) out_of_order += numbers[i] != i ? 1 : 0;
  EXPECT_EQ(out_of_order, 0U);
}

struct Hold : ::testing::Test {
  void SetUp() override {
    if (auto why = testing::why_no_namespaces(); !why.empty()) GTEST_SKIP() << why;
    client = std::make_unique<Net>("client");
    host = std::make_unique<Net>("host");
    box = std::make_unique<Net>("box");
    other = std::make_unique<Net>("other");
    join(*client, "eth0", *host, "c0");
    join(*box, "eth0", *host, "b0");
    join(*other, "eth0", *host, "o0");
    (void)client->sh("ip addr add 10.1.0.2/24 dev eth0; ip route add default via 10.1.0.1");
    (void)box->sh("ip addr add 10.88.0.5/16 dev eth0; ip route add default via 10.88.0.1");
    (void)other->sh(
        "ip addr add 10.2.0.2/24 dev eth0; ip addr add 10.88.0.5/32 dev lo; ip route add default via 10.2.0.1; "
        "sysctl -qw net.ipv4.conf.all.rp_filter=0");
    (void)host->sh(
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=1; ip addr add 10.1.0.1/24 dev c0; ip addr add "
        "10.2.0.1/24 dev o0; "
        "ip link add br0 type bridge; ip link set b0 master br0; ip link set br0 up; ip addr add 10.88.0.1/16 dev br0; "
        "nft -f - <<'N'\n"
        "table inet netavark { chain pre { type nat hook prerouting priority dstnat; ip daddr 10.1.0.1 udp dport 8000 "
        "dnat ip to 10.88.0.5:7000; "
        "ip daddr 10.1.0.1 tcp dport 8000 dnat ip to 10.88.0.5:7000; }\n"
        "chain post { type nat hook postrouting priority srcnat; ip saddr 10.88.0.0/16 ip daddr != 10.88.0.0/16 "
        "masquerade; }\n"
        "chain forwarding { type filter hook forward priority filter; ct state invalid drop; "
        "ip daddr 10.88.0.0/16 ct state established,related accept; ip saddr 10.88.0.0/16 accept; }\n}\nN");
    for (const auto* n : {box.get(), client.get()}) (void)n->sh("sysctl -qw net.ipv4.tcp_rmem='4096 131072 67108864'");
    (void)client->sh("ping -c1 -W2 10.88.0.5 >/dev/null; ping -c1 -W2 10.2.0.2 >/dev/null");
    before = state_of_host();
  }
  void TearDown() override {
    if (!host) return;
    EXPECT_EQ(state_of_host(), before) << "something stayed behind";
  }
  // Without link-local addresses, which come by themselves within the first second.
  std::string state_of_host() const {
    return host->sh(
        "ip -o link | cut -d: -f2; ip route show table all | grep -v fe80; ip rule; nft list tables; cat "
        "/proc/sys/net/ipv4/conf/br0/rp_filter");
  }

  void prepare(const HoldOptions& options = {}) {
    host->in([&] {
      auto h = PacketHold::prepare({"10.88.0.5"}, options);
      ASSERT_TRUE(h) << h.error().message();
      hold = std::move(*h);
    });
  }
  void begin() {
    auto r = hold->begin();
    ASSERT_TRUE(r) << r.error().message();
  }
  void in_client(const std::function<void(const Fd&)>& work) {
    client->in([&] {
      if (!sender.valid()) sender = udp_at(0);
      work(sender);
    });
  }
  std::unique_ptr<Net> client, host, box, other;
  std::unique_ptr<PacketHold> hold;
  Fd sender;
  std::string before;
};

TEST_F(Hold, RollbackDeliversEverythingInOrder) {
  Fd receiver;
  box->in([&] { receiver = udp_at(kPort); });
  prepare();
  constexpr uint32_t kHeld = 20'000;
  in_client([&](const Fd& s) { send_numbers(s, kBox, kPort, 0, 10); });
  auto t0 = Clock::now();
  begin();
  auto begin_us = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - t0).count();
  in_client([&](const Fd& s) { send_numbers(s, kBox, kPort, 10, kHeld); });
  auto early = received(receiver, 20);
  EXPECT_EQ(early.size(), 10U) << "packets passed the hold";
  Thread late("late", [&] { in_client([&](const Fd& s) { send_numbers(s, kBox, kPort, 10 + kHeld, 10'000); }); });
  auto r = hold->deliver_here();
  ASSERT_TRUE(r) << r.error().message();
  late.join();
  auto rest = received(receiver, 200);
  early.insert(early.end(), rest.begin(), rest.end());
  expect_row(early, 10 + kHeld + 10'000);
  auto s = hold->stats();
  EXPECT_GE(s.held_packets, kHeld);
  EXPECT_EQ(s.dropped_packets + s.failed_packets, 0U);
  std::printf("  begin %ld us, %lu packets delivered in %lu us (%.0f packets/s, %.0f Mbit/s)\n",
              static_cast<long>(begin_us), static_cast<unsigned long>(s.held_packets),
              static_cast<unsigned long>(s.delivery_us),
              static_cast<double>(s.held_packets) * 1e6 / static_cast<double>(s.delivery_us),
              static_cast<double>(s.held_bytes) * 8 / static_cast<double>(s.delivery_us));
  hold.reset();
}

TEST_F(Hold, CommitSendsThemOnAndLateOnesToo) {
  Fd receiver;
  other->in([&] { receiver = udp_at(kPort); });
  prepare({.grace = milliseconds(300)});
  begin();
  in_client([&](const Fd& s) { send_numbers(s, kBox, kPort, 0, 3000); });
  auto r = hold->deliver_to("10.2.0.2");
  ASSERT_TRUE(r) << r.error().message();
  in_client([&](const Fd& s) { send_numbers(s, kBox, kPort, 3000, 100); });
  expect_row(received(receiver, 150), 3100);
  EXPECT_THAT(host->sh("ip route get 10.88.0.5"), HasSubstr("10.2.0.2"));
  auto deadline = Deadline::in(milliseconds(5000));
  while (state_of_host() != before && !deadline.passed()) ::usleep(50'000);
  EXPECT_EQ(state_of_host(), before) << "after the grace, before the destructor";
  hold.reset();
}

TEST_F(Hold, WithoutTheAddressKeptOnesAreDroppedAndSendersAreTold) {
  Fd receiver;
  box->in([&] { receiver = udp_at(kPort); });
  // The word comes while connect() is still sending, since all is on one machine, and is taken at the second attempt.
  prepare({.grace = milliseconds(2500)});
  begin();
  in_client([&](const Fd& s) { send_numbers(s, kBox, kPort, 1000, 5); });
  ::usleep(20'000);
  ASSERT_TRUE(hold->drop());
  in_client([&](const Fd& s) { send_numbers(s, kBox, kPort, 0, 5); });
  expect_row(received(receiver, 100), 5);
  ASSERT_TRUE(hold->refuse());
  EXPECT_THAT(host->sh("ip route"), HasSubstr("unreachable 10.88.0.5"));
  client->in([&] {
    Fd late(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    auto a = at(kBox, kPort);
    EXPECT_EQ(::connect(late.get(), reinterpret_cast<sockaddr*>(&a), sizeof a), -1);
    EXPECT_EQ(errno, EHOSTUNREACH) << errno_text(errno);
  });
  auto s = hold->stats();
  EXPECT_EQ(s.dropped_packets, 5U);
  EXPECT_EQ(s.held_packets, 0U);
  auto deadline = Deadline::in(milliseconds(5000));
  while (state_of_host() != before && !deadline.passed()) ::usleep(50'000);
  EXPECT_EQ(state_of_host(), before) << "after the grace, before the destructor";
  hold.reset();
}

TEST_F(Hold, PublishedPortsAreNotTranslatedTwice) {
  Fd receiver;
  box->in([&] { receiver = udp_at(kPort); });
  in_client([&](const Fd& s) { send_numbers(s, kHost, 8000, 0, 5); });
  prepare();
  begin();
  in_client([&](const Fd& s) { send_numbers(s, kHost, 8000, 5, 500); });
  ASSERT_TRUE(hold->deliver_here());
  expect_row(received(receiver, 100), 505);
  hold.reset();
}

TEST_F(Hold, AnOpenTcpConnectionSeesAPauseOnly) {
  Fd listener, connection, server;
  box->in([&] {
    listener = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    auto a = at(INADDR_ANY, kPort);
    ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&a), sizeof a), 0);
    ASSERT_EQ(::listen(listener.get(), 4), 0);
  });
  client->in([&] {
    connection = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    auto a = at(kBox, kPort);
    ASSERT_EQ(::connect(connection.get(), reinterpret_cast<sockaddr*>(&a), sizeof a), 0);
  });
  server = Fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  Thread echo("echo", [&] {
    char c = 0;
    while (::read(server.get(), &c, 1) == 1) (void)!::write(server.get(), &c, 1);
  });
  prepare();
  char c = 'a';
  ASSERT_EQ(::write(connection.get(), &c, 1), 1);
  ASSERT_EQ(::read(connection.get(), &c, 1), 1);
  begin();
  auto sent = Clock::now();
  ASSERT_EQ(::write(connection.get(), &c, 1), 1);
  ::usleep(50'000);
  auto delivered = Clock::now();
  ASSERT_TRUE(hold->deliver_here());
  ASSERT_EQ(::read(connection.get(), &c, 1), 1);
  auto added = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - delivered).count();
  std::printf("  answer %ld us after delivery began\n", static_cast<long>(added));
  EXPECT_LT(Clock::now() - sent, milliseconds(190)) << "that was a retransmission, not the kept packet";
  connection.reset();
  echo.join();
  hold.reset();
}

TEST_F(Hold, AFullQueueDropsAndCounts) {
  prepare({.max_bytes = 100'000});
  begin();
  in_client([&](const Fd& s) { send_numbers(s, kBox, kPort, 0, 1000); });
  ::usleep(50'000);
  auto s = hold->stats();
  EXPECT_LE(s.max_queued_bytes, 100'000U);
  EXPECT_EQ(s.dropped_packets + s.held_packets, 1000U);
  EXPECT_GT(s.held_packets, 50U);
  hold.reset();  // while it holds: everything must go (see TearDown)
}

TEST_F(Hold, ClientsGetNoErrorMeanwhile) {
  prepare();
  begin();
  client->in([&] {
    Fd s(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    auto a = at(kBox, 9);
    ASSERT_EQ(::connect(s.get(), reinterpret_cast<sockaddr*>(&a), sizeof a), 0);
    for (int i = 0; i < 5; ++i) {
      EXPECT_EQ(::send(s.get(), "x", 1, 0), 1) << errno_text(errno);
      ::usleep(5000);
    }
  });
  hold.reset();
}

TEST_F(Hold, RefusesWhatItCannotHold) {
  host->in([&] {
    auto r = PacketHold::prepare({"10.1.0.1"});
    EXPECT_FALSE(r) << "an address of the host itself";
    r = PacketHold::prepare({"not an address"});
    EXPECT_EQ(r.error().code(), Errc::kInvalidArgument);
    (void)sys::run_ok({.argv = {"sysctl", "-qw", "net.ipv4.ip_forward=0"}});
    r = PacketHold::prepare({"10.88.0.5"});
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code(), Errc::kRefused);
    EXPECT_THAT(r.error().remedy(), HasSubstr("sysctl"));
  });
}

}  // namespace
}  // namespace transship::network
