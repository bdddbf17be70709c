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
  EXPECT_THAT(exposer.expose(bad).error().message(), HasSubstr("tcp or udp"));
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

TEST_F(ExposerTest, WhatIsNotKnownCannotEnd) {
  EXPECT_EQ(exposer.end("tcp", "aws", 1).error().code(), Errc::kNotFound);
  EXPECT_EQ(exposer.end("tcp", "nobody", 1).error().code(), Errc::kNotFound);
  EXPECT_EQ(exposer.end("tcp", "aws", 0).error().code(), Errc::kInvalidArgument);
}

}  // namespace
}  // namespace transship::migrate
