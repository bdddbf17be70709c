#include "migrate/placements.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "migrate/test_node.h"

namespace transship::migrate {
namespace {

using network::IpAddress;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct NoPaths final : TunnelPaths {
  Result<std::string> interface_to(const std::string& peer) const override {
    return fail(Errc::kUnavailable, "there is no tunnel to {}", peer);
  }
  std::vector<std::string> interfaces() const override { return {}; }
};

PlacedContainer redis() {
  return {.role = PlacedRole::kAway,
          .home = "SHA256:aws",
          .home_id = "3f2a",
          .name = "redis",
          .addresses = {*IpAddress::parse("10.88.0.3"), *IpAddress::parse("fd88::3")},
          .bridge = "podman0",
          .peer = "azure",
          .ports = {{.host_address = IpAddress::parse("192.0.2.1").value(), .host_port = 80, .container_port = 8080}},
          .next = "SHA256:openstack"};
}

struct PlacementsTest : ::testing::Test {
  PlacementsTest() { begin(); }
  void begin() {
    placements.reset();
    store.reset();
    store = file.open();
    placements.emplace(*store, paths);
  }
  testing::StoreFile file;
  NoPaths paths;
  std::unique_ptr<state::Store> store;
  std::optional<Placements> placements;
};

TEST_F(PlacementsTest, AreThereAgainAfterARestartUnlessStaged) {
  auto c = redis();
  ASSERT_TRUE(placements->put(c));
  auto staged = redis();
  staged.home_id = "77";
  staged.addresses = {*IpAddress::parse("10.88.0.4")};
  staged.staged = true;
  ASSERT_TRUE(placements->put(staged));
  EXPECT_EQ(placements->all().size(), 2U);
  EXPECT_EQ(placements->with_address(*IpAddress::parse("fd88::3")), c);
  EXPECT_EQ(placements->with_address(*IpAddress::parse("fd88::4")), std::nullopt);
  begin();
  ASSERT_TRUE(placements->load());
  EXPECT_THAT(placements->all(), ElementsAre(c));
  c.peer = "openstack";
  ASSERT_TRUE(placements->put(c));
  EXPECT_THAT(placements->all(), ElementsAre(c));
  ASSERT_TRUE(placements->remove(c.key()));
  ASSERT_TRUE(placements->remove(c.key()));
  begin();
  ASSERT_TRUE(placements->load());
  EXPECT_THAT(placements->all(), IsEmpty());
}

TEST_F(PlacementsTest, AGuestThatHadLeftIsNotTakenUp) {
  auto c = redis();
  c.role = PlacedRole::kGuest;
  c.leaving = "m-1";
  ASSERT_TRUE(placements->put(c));
  begin();
  ASSERT_TRUE(placements->load());
  EXPECT_THAT(placements->all(), IsEmpty());
  EXPECT_THAT(*store->placed(), IsEmpty());
}

TEST_F(PlacementsTest, WhatCannotBeReadIsNamedAndTheRestIsTaken) {
  ASSERT_TRUE(placements->put(redis()));
  ASSERT_TRUE(store->put_placed({"SHA256:x/1", "{"}));
  ASSERT_TRUE(store->put_placed({"SHA256:x/2", R"({"role":"king"})"}));
  begin();
  auto loaded = placements->load();
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code(), Errc::kCorrupt);
  EXPECT_THAT(loaded.error().message(), HasSubstr("SHA256:x/"));
  EXPECT_THAT(placements->all(), ElementsAre(redis()));
}

// A move switches its way while another apply() has already looked at what is known.
TEST_F(PlacementsTest, WhatIsRememberedMeanwhileIsBroughtThereAsWell) {
  struct OnePath final : TunnelPaths {
    Result<std::string> interface_to(const std::string&) const override { return "ts0"; }
    std::vector<std::string> interfaces() const override { return {"ts0"}; }
  } one_path;
  std::vector<bool> staged, were_still;
  Placements* all = nullptr;
  auto kernel = [&](const network::Placement& p, const std::function<bool()>& still) -> Result<> {
    staged.push_back(p.away.at(0).staged);
    if (staged.size() == 1) {
      auto left = redis();
      all->remember(left);
    }
    were_still.push_back(still());
    return {};
  };
  Placements some(*store, one_path, nullptr, kernel);
  all = &some;
  auto c = redis();
  c.staged = true;
  some.remember(c);
  ASSERT_TRUE(some.apply());
  EXPECT_THAT(staged, ElementsAre(true, false));
  EXPECT_THAT(were_still, ElementsAre(false, true));
}

}  // namespace
}  // namespace transship::migrate
