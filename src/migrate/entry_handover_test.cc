#include "migrate/entry_handover.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "migrate/test_node.h"

namespace transship::migrate {
namespace {

using network::IpAddress;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

struct Paths final : TunnelPaths {
  Result<std::string> interface_to(const std::string& peer) const override {
    if (peer == "azure") return "ts0";
    if (peer == "openstack") return "ts1";
    return fail(Errc::kUnavailable, "there is no tunnel to {}", peer);
  }
  std::vector<std::string> interfaces() const override { return {"ts0", "ts1"}; }
};

// The node aws; redis is at home here, and on azure.
struct EntryHandoverTest : ::testing::Test, testing::AwsNode {
  EntryHandoverTest()
      : AwsNode({"azure", "openstack"}),
        exposures(*services.store, own()),
        placements(*services.store, paths, &exposures),
        exposer(services, placements, exposures, paths),
        handover(services, placements, exposures, exposer) {
    EXPECT_TRUE(placements.put(redis_on_azure()));
  }
  Exposure port(const std::string& entry, const std::string& home, const std::string& next = "") const {
    return {.entry = entry,
            .home = home,
            .port = 7379,
            .name = "redis",
            .addresses = {{*IpAddress::parse("10.88.0.3"), 0}},
            .container_port = 6379,
            .entry_knows = true,
            .next = next};
  }
  static peer::EntryRequest said(const std::string& address = "10.90.0.7/24") {
    peer::EntryRequest request;
    request.set_protocol("tcp");
    request.set_port(7379);
    request.set_container_port(6379);
    request.set_name("redis");
    request.add_addresses(address);
    return request;
  }
  std::string home_of_entry() const { return exposures.find(port(own(), "").key())->home; }

  Paths paths;
  Exposures exposures;
  Placements placements;
  Exposer exposer;
  EntryHandover handover;
};

TEST_F(EntryHandoverTest, AnEntryNeedsBothWords) {
  ASSERT_TRUE(exposures.put(port(own(), key("azure"))));
  // Of one that the home has not named.
  auto taken = exposer.told("openstack", said());
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().code(), Errc::kAlreadyExists);
  EXPECT_EQ(home_of_entry(), key("azure"));
  // Somebody names itself, or another one.
  for (const auto& next : {key("openstack"), key("stranger")}) {
    auto request = said();
    request.set_next(next);
    EXPECT_FALSE(exposer.told("openstack", request));
  }
  EXPECT_EQ(exposures.find(port(own(), "").key())->next, "");
}

TEST_F(EntryHandoverTest, TheNextHomeIsBelievedForThatContainerAndPortOnly) {
  ASSERT_TRUE(exposures.put(port(own(), key("azure"), key("openstack"))));
  auto other = said();
  other.set_name("web");
  EXPECT_FALSE(exposer.told("openstack", other));
  other = said();
  other.set_container_port(22);
  EXPECT_FALSE(exposer.told("openstack", other));
  EXPECT_EQ(home_of_entry(), key("azure"));
}

TEST_F(EntryHandoverTest, WhenTheHomeHasTakenItBackItIsRefused) {
  ASSERT_TRUE(exposures.put(port(own(), key("azure"), key("openstack"))));
  auto back = port(own(), key("azure"));
  ASSERT_TRUE(exposures.put(back));
  EXPECT_FALSE(exposer.told("openstack", said()));
  EXPECT_EQ(home_of_entry(), key("azure"));
}

TEST_F(EntryHandoverTest, OnlyWhoHasTheContainerMayAskItsHome) {
  ASSERT_TRUE(exposures.put(port(key("openstack"), own())));
  peer::HandoverRequest request;
  request.set_home_id("3f2a");
  EXPECT_EQ(handover.asked("openstack", request).error().code(), Errc::kRefused);
  auto answer = handover.asked("azure", request);
  ASSERT_TRUE(answer) << answer.error().message();
  ASSERT_EQ(answer->exposed_size(), 1);
  EXPECT_EQ(answer->exposed(0).entry(), key("openstack"));
  EXPECT_EQ(answer->exposed(0).container_port(), 6379U);
  EXPECT_EQ(exposures.all().front().next, "") << "asking changes nothing";
  request.set_home_id("77");
  EXPECT_EQ(handover.asked("azure", request).error().code(), Errc::kRefused);
  request.set_home_id("3f2a");
  request.set_offer(true);
  request.set_next(key("stranger"));
  EXPECT_EQ(handover.asked("azure", request).error().code(), Errc::kNotFound);
}

TEST_F(EntryHandoverTest, AnEntryThatDoesNotAnswerIsSaidAndHearsItLater) {
  ASSERT_TRUE(exposures.put(port(key("openstack"), own())));
  peer::HandoverRequest request;
  request.set_home_id("3f2a");
  request.set_offer(true);
  request.set_next(key("azure"));
  auto answer = handover.asked("azure", request);  // nobody listens at openstack's address
  ASSERT_TRUE(answer) << answer.error().message();
  EXPECT_THAT(answer->not_told(), SizeIs(1));
  auto e = exposures.all().front();
  EXPECT_EQ(e.next, key("azure"));
  EXPECT_FALSE(e.entry_knows);
}

TEST_F(EntryHandoverTest, AGivenOneIsShutOnItsOwnEntryAndGoneElsewhere) {
  auto here = port(own(), own(), key("azure"));
  auto there = port(key("openstack"), own(), key("azure"));
  there.given = here.given = true;
  ASSERT_TRUE(exposures.put(here));
  ASSERT_TRUE(exposures.put(there));
  network::Placement p;
  exposures.add_to(p, paths);
  ASSERT_THAT(p.entries, SizeIs(1));
  EXPECT_TRUE(p.entries[0].shut) << "clients wait for the next home's word";
  EXPECT_THAT(p.exposed, IsEmpty());
}

TEST_F(EntryHandoverTest, LastWordsOfOldConnectionsAreLetThrough) {
  ASSERT_TRUE(exposures.put(port(own(), key("openstack"))));
  exposures.keep_late(port(own(), key("azure")));
  network::Placement p;
  exposures.add_to(p, paths);
  ASSERT_THAT(p.entries, SizeIs(2));
  EXPECT_TRUE(p.entries[1].late);
  EXPECT_EQ(p.entries[1].tunnel, "ts0");
  auto zones = network::entry_zone_rules(p, false);
  EXPECT_THAT(zones, HasSubstr("dport 7379 ct zone set 7401"));
  EXPECT_THAT(zones, ::testing::Not(HasSubstr("dport 7379 ct zone set 7400"))) << "new ones go the new way only";
  EXPECT_THAT(zones, HasSubstr("iifname \"ts0\" ip saddr 10.88.0.3 tcp sport 6379 ct zone set 7400"));
  EXPECT_THAT(network::entry_port_rules(p, false), ::testing::Not(HasSubstr("ct zone 7400")));
  EXPECT_FALSE(exposures.forget_late()) << "not yet";
}

// The home stays the same, when a guest comes back to it and gets another address.
TEST_F(EntryHandoverTest, AHomeLetsOldConnectionsOfAnEntryThroughAsWell) {
  auto now = port(key("openstack"), own());
  now.addresses = {{*IpAddress::parse("10.88.0.9"), 16}};
  ASSERT_TRUE(exposures.put(now));
  exposures.keep_late(port(key("openstack"), own()));
  exposures.keep_late(port(own(), own()));  // passes no tunnel
  network::Placement p;
  exposures.add_to(p, paths);
  EXPECT_THAT(p.entries, IsEmpty());
  ASSERT_THAT(p.exposed, SizeIs(2));
  EXPECT_THAT(p.exposed[1].addresses, ElementsAre(*IpAddress::parse("10.88.0.3")));
  EXPECT_EQ(p.exposed[1].tunnel, "ts1");
}

TEST_F(EntryHandoverTest, WhatIsStoredOfItIsReadAgain) {
  auto e = port(own(), key("azure"), key("openstack"));
  e.given = true;
  auto again = parse_exposure(e.key(), to_text(e));
  ASSERT_TRUE(again);
  EXPECT_EQ(*again, e);
}

TEST_F(EntryHandoverTest, WhatCannotLeadHereIsSaid) {
  peer::ExposedPort known, unknown, mine;
  known.set_entry(key("azure"));
  unknown.set_entry(key("stranger"));
  unknown.set_port(99);
  mine.set_entry(own());
  EXPECT_THAT(handover.objections({known, mine, unknown}), ElementsAre(HasSubstr("port 99: aws has no peer with")));
}

}  // namespace
}  // namespace transship::migrate
