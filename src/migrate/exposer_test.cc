#include "migrate/exposer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "migrate/test_node.h"

namespace transship::migrate {
namespace {

using network::IpAddress;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Paths final : TunnelPaths {
  Result<std::string> interface_to(const std::string& peer) const override {
    if (peer == "azure") return "ts64";
    return fail(Errc::kUnavailable, "there is no tunnel to {}", peer);
  }
  std::vector<std::string> interfaces() const override { return {}; }
};

struct ExposerTest : ::testing::Test, testing::AwsNode {
  ExposerTest()
      : AwsNode({"azure", "openstack"}),
        exposures(*services.store, own()),
        placements(*services.store, paths, &exposures),
        exposer(services, placements, exposures, paths) {
    EXPECT_TRUE(placements.put(redis_on_azure()));
  }
  Exposure known(const std::string& entry, const std::string& home) const {
    return {.entry = entry,
            .home = home,
            .port = 7379,
            .name = "redis",
            .addresses = {{*IpAddress::parse("10.88.0.3"), 0}},
            .container_port = 6379};
  }
  ExposeOrder order(const std::string& node, const std::string& name = "redis") const {
    return {.container = name, .container_port = 6379, .protocol = "tcp", .node = node, .port = 7379};
  }
  Paths paths;
  Exposures exposures;
  Placements placements;
  Exposer exposer;
};

TEST_F(ExposerTest, WhatMakesNoSenseIsRefusedAndLeavesNothing) {
  auto bad = order("openstack");
  bad.port = 65536;
  EXPECT_THAT(exposer.expose(bad).error().message(), HasSubstr("from 1 to 65535"));
  bad = order("openstack");
  bad.container_port = 0;
  EXPECT_EQ(exposer.expose(bad).error().code(), Errc::kInvalidArgument);
  bad.container_port = 80;
  bad.protocol = "sctp";
  EXPECT_THAT(exposer.expose(bad).error().message(), HasSubstr("tcp, udp or http"));
  EXPECT_EQ(exposer.expose(order("nobody")).error().code(), Errc::kNotFound);
  EXPECT_EQ(exposer.expose(order("openstack", "other")).error().code(), Errc::kNotFound);
  EXPECT_THAT(exposer.expose(order("openstack")).error().message(), HasSubstr("no tunnel to openstack"));
  EXPECT_THAT(exposer.expose(order("azure")).error().message(), HasSubstr("first 64 tunnels"));
  EXPECT_THAT(exposures.all(), IsEmpty());
}

TEST_F(ExposerTest, APortLeadsToOneContainer) {
  ASSERT_TRUE(exposures.put(known(own(), own())));
  auto again = exposer.expose(order("aws"));
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code(), Errc::kAlreadyExists);
  EXPECT_EQ(again.error().message(), "aws: port 7379/tcp leads to redis already");
  EXPECT_EQ(exposer.place_of(known(own(), own())), "azure");
}

TEST_F(ExposerTest, OnlyWhoHasItAndTheEntryMayAsk) {
  peer::ExposeRequest request;
  request.set_home_id("3f2a");
  request.set_protocol("tcp");
  request.set_container_port(6379);
  request.set_port(7379);
  request.set_entry(key("openstack"));
  EXPECT_EQ(exposer.asked("openstack", request).error().code(), Errc::kRefused);
  EXPECT_THAT(exposer.asked("azure", request).error().message(), HasSubstr("no tunnel to openstack"));  // believed
  request.set_entry(key("stranger"));
  EXPECT_EQ(exposer.asked("azure", request).error().code(), Errc::kNotFound);
  request.set_home_id("77");
  EXPECT_EQ(exposer.asked("azure", request).error().code(), Errc::kRefused);

  ASSERT_TRUE(exposures.put(known(key("openstack"), own())));
  request.set_remove(true);
  request.set_entry(key("openstack"));
  EXPECT_EQ(exposer.asked("azure", request).error().code(), Errc::kRefused);
  request.set_port(1);
  EXPECT_TRUE(exposer.asked("openstack", request));  // there is none
  EXPECT_EQ(exposures.all().size(), 1U);
}

TEST_F(ExposerTest, AnEntryBelievesTheHomeOnly) {
  ASSERT_TRUE(exposures.put(known(own(), key("azure"))));
  peer::EntryRequest request;
  request.set_protocol("tcp");
  request.set_port(7379);
  request.set_container_port(6379);
  request.set_name("web");
  request.add_addresses("10.88.0.9/16");
  for (const char* peer : {"azure", "openstack"}) {
    auto taken = exposer.told(peer, request);
    ASSERT_FALSE(taken);
    EXPECT_EQ(taken.error().message(), "port 7379/tcp of aws leads to redis already");
  }
  request.set_remove(true);
  EXPECT_TRUE(exposer.told("openstack", request));  // it has none there
  EXPECT_EQ(exposures.all().size(), 1U);
  request.set_remove(false);
  request.set_port(7380);
  for (const char* name : {"", "../x"}) {
    request.set_name(name);
    EXPECT_EQ(exposer.told("azure", request).error().code(), Errc::kPeerProtocol);
  }
  request.set_name("web");
  request.add_addresses("nonsense");
  EXPECT_FALSE(exposer.told("azure", request));
  request.clear_addresses();
  EXPECT_EQ(exposer.told("azure", request).error().code(), Errc::kPeerProtocol);
  EXPECT_EQ(exposures.all().size(), 1U);
}

// No HAProxy is started by a unit test: its program is not there.
struct HttpExposerTest : ExposerTest {
  HttpExposerTest() : http(options(), exposures), with_http(services, placements, exposures, paths, &http) {}
  static gateway::GatewayOptions options() {
    gateway::GatewayOptions o;
    o.program = "no-such-haproxy";
    o.directory = ::testing::TempDir() + "/no-such-http";
    return o;
  }
  Exposure behind(const std::string& home, const std::string& name) const {
    Exposure e = known(own(), home);
    e.protocol = "http";
    e.name = name;
    return e;
  }
  HttpEntries http;
  Exposer with_http;
};

TEST_F(HttpExposerTest, NothingGetsIntoAConfigurationThatIsNoNameAndNoPath) {
  peer::EntryRequest request;
  request.set_protocol("http");
  request.set_port(7379);
  request.set_container_port(80);
  request.add_addresses("10.88.0.9/16");
  for (const char* name : {"", "a b", "a\nserver x", "a;b", "../x"}) {
    request.set_name(name);
    EXPECT_EQ(with_http.told("azure", request).error().code(), Errc::kPeerProtocol) << name;
  }
  peer::ExposeRequest asked;
  asked.set_home_id("3f2a");
  asked.set_protocol("http");
  asked.set_container_port(80);
  asked.set_port(7379);
  asked.set_entry(own());
  for (const char* health : {"health", "/a b", "/a\nserver x", "/a;b"}) {
    asked.set_health(health);
    EXPECT_EQ(with_http.asked("azure", asked).error().code(), Errc::kInvalidArgument) << health;
  }
  auto bad = order("aws");
  bad.health = "/x";
  EXPECT_THAT(with_http.expose(bad).error().message(), HasSubstr("health checks are for http"));
  EXPECT_THAT(exposures.all(), IsEmpty());
}

TEST_F(HttpExposerTest, AllBehindAnEntryAreCheckedAlike) {
  ASSERT_TRUE(exposures.put(behind(key("azure"), "web")));
  auto other = order("aws");
  other.protocol = "http";
  other.health = "/x";
  auto refused = with_http.expose(other);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::kAlreadyExists);
  EXPECT_THAT(refused.error().message(), HasSubstr("without --health"));
  // tcp can't have the port of an entry that is there, nor the other way round.
  auto tcp = exposures.add(known(own(), own()));
  ASSERT_FALSE(tcp);
  EXPECT_EQ(tcp.error().message(), "port 7379/tcp leads to web already, as http");
}

TEST_F(HttpExposerTest, WhatEndsDrainsFirst) {
  ASSERT_TRUE(exposures.put(behind(key("azure"), "web")));
  peer::EntryRequest request;
  request.set_protocol("http");
  request.set_port(7379);
  request.set_name("web");
  request.set_remove(true);
  EXPECT_FALSE(*with_http.told("openstack", request));  // not its container
  EXPECT_FALSE(exposures.all().front().ending);
  EXPECT_TRUE(*with_http.told("azure", request));
  ASSERT_EQ(exposures.all().size(), 1U);
  EXPECT_TRUE(exposures.all().front().ending);
  EXPECT_TRUE(is_draining(exposures.all().front()));
}

TEST_F(HttpExposerTest, WhoHasItMaySayThatItMoves) {
  peer::MovingRequest request;
  request.set_home_id("3f2a");
  EXPECT_EQ(with_http.told_moving("openstack", request).error().code(), Errc::kRefused);
  EXPECT_TRUE(with_http.told_moving("azure", request));
  request.set_home_id("");
  EXPECT_EQ(with_http.told_moving("azure", request).error().code(), Errc::kPeerProtocol);
  request.set_home_id(std::string(200, 'a'));
  EXPECT_EQ(with_http.told_moving("azure", request).error().code(), Errc::kPeerProtocol);
  request.set_home_id("77");
  request.set_ended(true);
  EXPECT_TRUE(with_http.told_moving("azure", request));  // nobody has said that it began
  peer::PauseRequest pause;
  pause.set_name("web");
  pause.set_paused(true);
  EXPECT_EQ(with_http.told_pause("stranger", pause).error().code(), Errc::kNotFound);
}

TEST_F(ExposerTest, WhatIsNotKnownCannotEnd) {
  EXPECT_EQ(exposer.end({"tcp", "aws", 1}).error().code(), Errc::kNotFound);
  EXPECT_EQ(exposer.end({"tcp", "nobody", 1}).error().code(), Errc::kNotFound);
  EXPECT_EQ(exposer.end({"tcp", "aws", 0}).error().code(), Errc::kInvalidArgument);
  EXPECT_EQ(exposer.end({"http", "aws", 80, "web"}).error().code(), Errc::kNotFound);
}

}  // namespace
}  // namespace transship::migrate
