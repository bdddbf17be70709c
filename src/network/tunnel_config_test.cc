#include "network/tunnel_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/text.h"

namespace transship::network {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// Of RFC 7748, 6.1.
const char* const kSecret = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
const TunnelPublicKey kOwn = *TunnelPublicKey::parse("hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
const TunnelPublicKey kPeer = *TunnelPublicKey::parse("3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=");
constexpr int64_t kNow = 1'800'000'000;

UdpEndpoint endpoint(const char* text) { return *parse_udp_endpoint(text); }

std::string dump(const std::string& rest) { return fmt::format("{}\t{}\t7441\toff\n{}", kSecret, kOwn.text(), rest); }

std::string peer_line(const std::string& from_endpoint_on) {
  return fmt::format("{}\t(none)\t{}\n", kPeer.text(), from_endpoint_on);
}

TEST(UdpEndpoint, BothFamiliesThereAndBack) {
  for (const char* text : {"192.0.2.1:7441", "[2001:db8::1]:7441"}) EXPECT_EQ(to_text(endpoint(text)), text);
  EXPECT_EQ(to_text(endpoint("[fe80::1%eth0]:1")), "[fe80::1]:1");
  for (const char* bad : {"", ":", "1.2.3.4", "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4:-1", "[::1]", "[::1]:", "::1:7441",
                          "[]:1", "[:1", "]:1", "host:7441", "[1.2.3.4:5"})
    EXPECT_FALSE(parse_udp_endpoint(bad)) << bad;
}

TEST(WgDump, OfANewInterface) {
  auto state = parse_wg_dump("(none)\t(none)\t0\toff\n");
  ASSERT_TRUE(state) << state.error().message();
  EXPECT_FALSE(state->key);
  EXPECT_EQ(state->port, 0);
  EXPECT_THAT(state->peers, IsEmpty());
}

TEST(WgDump, OfOneInUse) {
  auto state = parse_wg_dump(dump(peer_line("[2001:db8::1]:7441\tfd00::2/128,10.88.0.3/32\t1799999990\t10\t20\t25")));
  ASSERT_TRUE(state) << state.error().message();
  EXPECT_EQ(state->key, kOwn);
  EXPECT_EQ(state->port, 7441);
  ASSERT_EQ(state->peers.size(), 1U);
  const auto& peer = state->peers[0];
  EXPECT_EQ(peer.key, kPeer);
  EXPECT_EQ(peer.endpoint, endpoint("[2001:db8::1]:7441"));
  EXPECT_THAT(peer.allowed, ElementsAre("10.88.0.3/32", "fd00::2/128"));
  EXPECT_EQ(peer.handshake_unix_s, 1799999990);
  EXPECT_EQ(peer.received_bytes, 10U);
  EXPECT_EQ(peer.sent_bytes, 20U);
  EXPECT_EQ(peer.keepalive_s, 25U);
}

TEST(WgDump, APeerThatWasNeverHeardOf) {
  auto state = parse_wg_dump(dump(peer_line("(none)\t(none)\t0\t0\t0\toff")));
  ASSERT_TRUE(state) << state.error().message();
  EXPECT_FALSE(state->peers[0].endpoint);
  EXPECT_THAT(state->peers[0].allowed, IsEmpty());
  EXPECT_EQ(state->peers[0].keepalive_s, 0U);
}

TEST(WgDump, WhatIsWrongIsNamedByItsLineAndNeverQuoted) {
  std::string secret = kSecret;
  for (const std::string& bad :
       {std::string(), std::string("\n\n"), std::string(5U << 20, 'x'), secret,
        fmt::format("{}\t{}\t77777\toff", secret, kOwn.text()), fmt::format("{}\t{}\tport\toff", secret, kOwn.text()),
        dump(secret), dump(peer_line("nowhere\t(none)\t0\t0\t0\toff")),
        dump(peer_line("(none)\t(none)\t-1\t0\t0\toff")),
        dump(peer_line("(none)\t(none)\t0\t0\t99999999999999999999\toff")), dump(peer_line("(none)\t(none)\t0")),
        dump("\t" + peer_line("(none)\t(none)\t0\t0\t0\toff"))}) {
    auto r = parse_wg_dump(bad);
    ASSERT_FALSE(r) << bad.substr(0, 200);
    EXPECT_EQ(r.error().code(), Errc::kCorrupt);
    EXPECT_THAT(r.error().message(), HasSubstr("line"));
    EXPECT_THAT(r.error().message(), Not(HasSubstr(secret)));
  }
}

class Difference : public ::testing::Test {
 protected:
  Difference() {
    now_ = {.key = kOwn, .port = 7441, .peers = {}};
    now_.peers.push_back({.key = kPeer,
                          .endpoint = endpoint("192.0.2.1:7441"),
                          .allowed = all_addresses(),
                          .handshake_unix_s = kNow - 60,
                          .keepalive_s = kTunnelKeepaliveS});
    wanted_ = {.key = kOwn, .port = 7441, .peers = {}};
    wanted_.peers.push_back({.key = kPeer, .endpoint = endpoint("192.0.2.1:7441"), .allowed = all_addresses()});
  }
  WgChange change() const { return difference(now_, wanted_, kNow); }
  WgState now_;
  WantedState wanted_;
};

TEST_F(Difference, NothingToDoIsNothing) { EXPECT_TRUE(change().empty()); }

TEST_F(Difference, InterfaceByItsKeyOrPort) {
  now_.port = 1;
  EXPECT_TRUE(change().interface);
  EXPECT_THAT(change().put, IsEmpty()) << "its peers are left alone";
  now_.port = 7441;
  now_.key.reset();
  EXPECT_TRUE(change().interface);
}

TEST_F(Difference, PeersComeAndGo) {
  wanted_.peers.clear();
  EXPECT_THAT(change().remove, ElementsAre(kPeer));
  now_.peers.clear();
  wanted_ = {.key = kOwn, .port = 7441, .peers = {{.key = kPeer, .endpoint = {}, .allowed = {}}}};
  EXPECT_EQ(change().put.size(), 1U);
}

TEST_F(Difference, AnEndpointThatWorksStays) {
  wanted_.peers[0].endpoint = endpoint("198.51.100.1:7441");
  EXPECT_TRUE(change().empty()) << "a handshake one minute ago";
  now_.peers[0].handshake_unix_s = kNow - kTunnelFreshS;
  ASSERT_EQ(change().put.size(), 1U);
  EXPECT_TRUE(change().put[0].set_endpoint);
}

TEST_F(Difference, AddressesChangeWithoutTheEndpoint) {
  wanted_.peers[0].endpoint = endpoint("198.51.100.1:7441");
  wanted_.peers[0].allowed = {"::/0"};
  ASSERT_EQ(change().put.size(), 1U);
  auto text = wg_config(change(), kSecret, 7441);
  EXPECT_THAT(text, HasSubstr("AllowedIPs = ::/0\n"));
  EXPECT_THAT(text, Not(HasSubstr("Endpoint")));
  EXPECT_THAT(text, Not(HasSubstr(kSecret)));
}

TEST_F(Difference, KeepAliveIsSeenTo) {
  now_.peers[0].keepalive_s = 0;
  EXPECT_EQ(change().put.size(), 1U);
}

// Of the others a handshake works at once, or works already.
TEST_F(Difference, OnlyIpv6PeersThatNeverAnsweredBeginAgain) {
  auto again = [&] { return begin_again(now_, wanted_); };
  wanted_.peers[0].endpoint = endpoint("[2001:db8::1]:7441");
  EXPECT_TRUE(again().empty()) << "has answered";
  now_.peers[0].handshake_unix_s = 0;
  ASSERT_EQ(again().put.size(), 1U);
  EXPECT_THAT(again().remove, ElementsAre(kPeer));
  EXPECT_THAT(wg_config(again(), kSecret, 7441), HasSubstr("Endpoint = [2001:db8::1]:7441"));
  wanted_.peers[0].endpoint = endpoint("192.0.2.1:7441");
  EXPECT_TRUE(again().empty()) << "over IPv4";
  wanted_.peers[0].endpoint = std::nullopt;
  EXPECT_TRUE(again().empty()) << "it calls us";
  now_.peers.clear();
  EXPECT_TRUE(again().empty()) << "not in the interface yet";
}

TEST(WgConfig, Whole) {
  WgChange change{.interface = true,
                  .put = {{.key = kPeer, .endpoint = endpoint("[2001:db8::1]:7441"), .allowed = {"fd00::1/128"}}},
                  .remove = {}};
  EXPECT_EQ(wg_config(change, kSecret, 7441),
            fmt::format("[Interface]\nPrivateKey = {}\nListenPort = 7441\n[Peer]\nPublicKey = {}\nAllowedIPs = "
                        "fd00::1/128\nPersistentKeepalive = 25\nEndpoint = [2001:db8::1]:7441\n",
                        kSecret, kPeer.text()));
}

}  // namespace
}  // namespace transship::network
