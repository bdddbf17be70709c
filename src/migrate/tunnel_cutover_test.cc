#include "migrate/tunnel_cutover.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "migrate/test_node.h"

namespace transship::migrate {
namespace {

using network::CutoverFacts;
using network::IpAddress;
using ::testing::HasSubstr;

struct Paths final : TunnelPaths {
  Result<std::string> interface_to(const std::string& peer) const override {
    if (peer != "gcp") return "nosuch0";
    return fail(Errc::kUnavailable, "there is no tunnel to {}", peer);
  }
  std::vector<std::string> interfaces() const override { return {}; }
};

// Nothing here gets as far as the kernel: moves in the lab do.
struct TunnelCutoverTest : ::testing::Test, testing::AwsNode {
  TunnelCutoverTest()
      : AwsNode({"azure", "openstack", "gcp"}),
        placements(*services.store, paths),
        cutover(services, placements, paths) {
    EXPECT_TRUE(placements.put(redis_on_azure()));
  }
  Result<> told(const std::string& peer, const std::string& next, const std::string& id = "3f2a", bool gone = false) {
    peer::PlacedRequest request;
    request.set_gone(gone);
    request.set_home_id(id);
    request.set_next(next);
    return cutover.told(peer, request);
  }
  void expect_refused(const Result<>& r, std::string_view why) {
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code(), Errc::kRefused);
    EXPECT_THAT(r.error().message(), HasSubstr(std::string(why)));
    EXPECT_EQ(placements.find(own() + "/3f2a")->peer, "azure");
  }
  CutoverFacts offer(const std::string& source, const std::string& home) const {
    return {.move_id = "m-1",
            .container = "redis",
            .addresses = {"10.88.0.3"},
            .source = source,
            .source_address = "",
            .destination = "aws",
            .destination_address = "",
            .home = home,
            .home_id = "3f2a"};
  }
  Paths paths;
  Placements placements;
  TunnelCutover cutover;
};

TEST_F(TunnelCutoverTest, OnlyWhoHasItSaysWhoGetsItAndOnlyThatOneHasIt) {
  expect_refused(told("openstack", ""), "azure has it, and has not given it on");
  expect_refused(told("openstack", key("openstack")), "azure has it");
  expect_refused(told("azure", "", "77"), "no container that is away");
  EXPECT_EQ(told("azure", key("nobody")).error().code(), Errc::kNotFound);
  ASSERT_TRUE(told("azure", key("openstack")));
  expect_refused(told("gcp", ""), "azure has it, and has not given it on");
  EXPECT_THAT(told("openstack", "").error().message(), HasSubstr("nosuch0"));  // believed: the kernel is asked
  expect_refused(told("openstack", "", "3f2a", true), "azure has it");
  // It stays where it is.
  ASSERT_TRUE(told("azure", key("openstack")));
  ASSERT_TRUE(told("azure", ""));
  expect_refused(told("openstack", ""), "has not given it on");
}

TEST_F(TunnelCutoverTest, ThatItIsGoneMayBeSaidAgain) {
  EXPECT_TRUE(told("azure", "", "77", true)) << "forgotten before";
  EXPECT_TRUE(placements.find(own() + "/3f2a"));
}

TEST_F(TunnelCutoverTest, AStagedOneIsNotAwayYet) {
  auto c = *placements.find(own() + "/3f2a");
  c.staged = true;
  placements.remember(c);
  expect_refused(told("azure", key("openstack")), "no container that is away");
}

TEST_F(TunnelCutoverTest, WhoOffersOneThatIsAtHomeHereMustHaveIt) {
  auto from_azure = cutover.judge_arrival(offer("azure", own()));
  ASSERT_TRUE(from_azure) << from_azure.error().message();
  EXPECT_EQ(*from_azure, "10.88.0.3 are at home here");
  auto forged = cutover.judge_arrival(offer("openstack", own()));
  ASSERT_FALSE(forged);
  EXPECT_EQ(forged.error().code(), Errc::kRefused);
  EXPECT_THAT(forged.error().message(), HasSubstr("has not given it to openstack"));
}

TEST_F(TunnelCutoverTest, TheWayHomeMustBeThere) {
  auto from = [&](const std::string& home) {
    auto facts = offer("azure", key(home));
    facts.addresses = {"10.88.0.5"};
    return cutover.judge_arrival(facts);
  };
  EXPECT_THAT(*from("openstack"), HasSubstr("at home on openstack"));
  EXPECT_THAT(from("gcp").error().message(), HasSubstr("no tunnel to gcp"));
  auto unknown = from("nobody");
  ASSERT_FALSE(unknown);
  EXPECT_THAT(unknown.error().message(), HasSubstr("no peer with the key SHA256:nobody"));
  EXPECT_THAT(unknown.error().remedy(), HasSubstr("peer add"));
}

TEST_F(TunnelCutoverTest, AGuestKeepsItsIdentity) {
  ASSERT_TRUE(placements.put({.role = PlacedRole::kGuest,
                              .home = key("openstack"),
                              .home_id = "99",
                              .name = "db",
                              .addresses = {*IpAddress::parse("10.88.0.9")},
                              .bridge = "podman0",
                              .peer = "openstack"}));
  CutoverFacts facts = offer("aws", "");
  facts.home_id = "local";
  cutover.identify(facts);
  EXPECT_EQ(facts.home, own());
  EXPECT_EQ(facts.home_id, "local");
  facts.addresses = {"10.88.0.9"};
  cutover.identify(facts);
  EXPECT_EQ(facts.home, key("openstack"));
  EXPECT_EQ(facts.home_id, "99");
}

// Both hosts have the same network: another container of that address is away from here.
TEST_F(TunnelCutoverTest, AnAddressThatIsTakenIsRefused) {
  auto facts = offer("openstack", key("openstack"));
  facts.home_id = "77";
  facts.container = "other";
  auto judged = cutover.judge_arrival(facts);
  ASSERT_FALSE(judged);
  EXPECT_EQ(judged.error().code(), Errc::kRefused);
  EXPECT_THAT(judged.error().message(), HasSubstr("10.88.0.3 is at home on aws as redis's, which is on azure now"));
  EXPECT_THAT(judged.error().remedy(), HasSubstr("another address"));
  facts.addresses = {"10.88.0.4"};
  EXPECT_TRUE(cutover.judge_arrival(facts));
  ASSERT_TRUE(placements.put({.role = PlacedRole::kGuest,
                              .home = key("openstack"),
                              .home_id = "88",
                              .name = "third",
                              .addresses = {*IpAddress::parse("10.88.0.4")},
                              .bridge = "podman0",
                              .peer = "openstack"}));
  judged = cutover.judge_arrival(facts);
  ASSERT_FALSE(judged);
  EXPECT_THAT(judged.error().message(), HasSubstr("third has 10.88.0.4 on aws, as a guest from openstack"));
  auto third = *placements.find(key("openstack") + "/88");
  third.leaving = "m-0";
  placements.remember(third);
  EXPECT_TRUE(cutover.judge_arrival(facts));
}

}  // namespace
}  // namespace transship::migrate
