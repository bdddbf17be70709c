#include "names/directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace transship::names {
namespace {

using network::IpAddress;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

NamedContainer container(const std::string& name, const std::string& address, const std::string& home,
                         const std::string& id) {
  NamedContainer c{.name = name, .addresses = {}, .home = home, .home_id = id};
  if (!address.empty()) c.addresses.push_back(IpAddress::parse(address).value());
  return c;
}

std::string text(const Directory& d) { return hosts_text(d.rows(), "transship"); }

TEST(DnsLabel, TranslatesOrSaysWhyNot) {
  EXPECT_EQ(dns_label("redis"), "redis");
  EXPECT_EQ(dns_label("My_App.1"), "my-app-1");
  EXPECT_EQ(dns_label("_x_"), "x");
  EXPECT_EQ(dns_label(std::string(63, 'a')), std::string(63, 'a'));
  for (const auto& [name, part] :
       std::vector<std::pair<std::string, std::string>>{{std::string(64, 'a'), "longer than the 63"},
                                                        {"a+b", "characters"},
                                                        {"a b", "characters"},
                                                        {"...", "nothing of it"},
                                                        {"", "nothing"},
                                                        {"\xc3\xa4", "characters"}}) {
    std::string why;
    EXPECT_EQ(dns_label(name, &why), "") << name;
    EXPECT_THAT(why, HasSubstr(part)) << name;
  }
}

TEST(NamedContainer, WhatAPeerMayNotSay) {
  auto good = container("a", "10.0.0.1", "home", "id");
  EXPECT_EQ(complaint(good), "");
  for (const char* address : {"127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1"})
    EXPECT_THAT(complaint(container("a", address, "home", "id")), HasSubstr("no address")) << address;
  EXPECT_NE(complaint(container("a/b", "10.0.0.1", "home", "id")), "");
  EXPECT_NE(complaint(container("a", "10.0.0.1", "home", "")), "");
  EXPECT_NE(complaint(container("a", "10.0.0.1", std::string(200, 'h'), "id")), "");
  good.addresses.assign(kMaxAddresses + 1, good.addresses.front());
  EXPECT_NE(complaint(good), "");
}

// redis of aws has moved to azure and has another address; gcp has one of that name as well, for longer than azure.
TEST(Directory, WithANewAddressItTakesItsPlaceAlong) {
  auto old = container("redis", "10.91.0.30", "A", "1");
  auto now = container("redis", "10.92.0.2", "B", "9");
  now.before_home = "A";
  now.before_id = "1";
  auto other = container("redis", "10.93.0.3", "C", "5");
  auto leaving = old;
  leaving.leaving = true;
  for (bool source_first : {true, false}) {
    Directory d("client");
    d.put("aws", {old}, 1000);
    d.put("gcp", {other}, 2000);
    if (!source_first) {
      d.put("azure", {now}, 3000);
      EXPECT_THAT(text(d), HasSubstr("10.91.0.30 redis.transship ")) << "aws has not said that it leaves";
      EXPECT_TRUE(d.put("aws", {leaving}, 3001));
    } else {
      EXPECT_TRUE(d.put("aws", {leaving}, 3000));
      EXPECT_THAT(text(d), HasSubstr("10.91.0.30 redis.transship ")) << "no moment without";
      EXPECT_TRUE(d.put("azure", {now}, 3001));
    }
    EXPECT_THAT(text(d), HasSubstr("10.92.0.2 redis.transship redis.azure.transship"));
    EXPECT_THAT(text(d), ::testing::Not(HasSubstr("10.91.0.30")));
    EXPECT_TRUE(d.has_moved(leaving));
    Directory again("client");
    ASSERT_TRUE(again.load_json(d.to_json(), 4000));
    EXPECT_EQ(text(again), text(d));
    d.put("aws", {}, 5000);
    now.before_id.clear();
    d.put("azure", {now}, 5001);
    EXPECT_THAT(text(d), HasSubstr("10.92.0.2 redis.transship redis.azure.transship")) << "it keeps the place";
    now.before_id = "1";
  }
}

TEST(Directory, NobodyTakesThePlaceOfOneThatIsNotLeaving) {
  Directory d("client");
  d.put("aws", {container("redis", "10.91.0.30", "A", "1")}, 1000);
  auto liar = container("redis", "10.92.0.2", "B", "9");
  liar.before_home = "A";
  liar.before_id = "1";
  d.put("azure", {liar}, 2000);
  EXPECT_THAT(text(d), HasSubstr("10.91.0.30 redis.transship "));
  auto leaving = container("redis", "10.91.0.30", "A", "1");
  leaving.leaving = true;
  liar.name = "web";
  d.put("azure", {liar}, 2001);
  d.put("aws", {leaving}, 2002);
  EXPECT_THAT(text(d), HasSubstr("10.91.0.30 redis.transship ")) << "nor by another name";
}

TEST(Directory, RecordsOfAllNodes) {
  Directory d("aws");
  auto both = container("dual", "10.0.0.1", "A", "1");
  both.addresses.push_back(IpAddress::parse("fd00::1").value());
  EXPECT_TRUE(d.put("aws", {both}, 1000));
  EXPECT_TRUE(d.put("azure_1", {container("web", "10.0.0.2", "B", "1"), container("none", "", "B", "2")}, 1001));
  EXPECT_EQ(text(d),
            "10.0.0.1 dual.transship dual.aws.transship\nfd00::1 dual.transship dual.aws.transship\n"
            "10.0.0.2 web.transship web.azure-1.transship\n");
  EXPECT_THAT(d.rows()[1].note, HasSubstr("no address of its own"));
  EXPECT_FALSE(d.put("aws", {both}, 2000)) << "nothing new";
  EXPECT_TRUE(d.drop("azure_1"));
  EXPECT_THAT(text(d), testing::Not(HasSubstr("web")));
}

TEST(Directory, TheFirstOneHasTheName) {
  Directory d("openstack");
  d.put("azure", {container("x", "10.0.0.2", "B", "1")}, 1000);
  // However old it says that it is.
  auto old = container("x", "10.0.0.1", "A", "1");
  old.since_ms = 1;
  d.put("aws", {old}, 2000);
  EXPECT_EQ(text(d), "10.0.0.2 x.transship x.azure.transship\n10.0.0.1 x.aws.transship\n");
  EXPECT_THAT(d.rows()[0].note, HasSubstr("aws"));
  EXPECT_THAT(d.rows()[1].note, HasSubstr("azure has had"));
  d.put("azure", {}, 3000);
  EXPECT_EQ(text(d), "10.0.0.1 x.transship x.aws.transship\n");
  EXPECT_EQ(d.rows()[0].note, "");
}

TEST(Directory, AMovedContainerTakesItsPlaceAlong) {
  Directory d("openstack");
  d.put("aws", {container("x", "10.0.0.1", "A", "1")}, 1000);
  d.put("azure", {container("x", "10.0.0.9", "B", "7")}, 2000);
  // It is on openstack now: the source may say so later than the destination, or the other way round.
  d.put("gcp", {container("x", "10.0.0.1", "A", "1")}, 3000);
  EXPECT_EQ(text(d), "10.0.0.1 x.transship x.aws.transship\n10.0.0.9 x.azure.transship\n");
  EXPECT_THAT(d.rows().back().note, HasSubstr("not believed while aws"));
  d.put("aws", {}, 3010);
  EXPECT_EQ(text(d), "10.0.0.1 x.transship x.gcp.transship\n10.0.0.9 x.azure.transship\n");
}

// Between the two words of source and destination it has its name all the time, whoever speaks first.
TEST(Directory, OneThatIsLeavingCountsUntilAnotherHasIt) {
  auto x = container("x", "10.0.0.1", "A", "1");
  auto leaving = x;
  leaving.leaving = true;
  Directory source_first("openstack");
  source_first.put("aws", {x}, 1000);
  source_first.put("aws", {leaving}, 2000);
  EXPECT_EQ(text(source_first), "10.0.0.1 x.transship x.aws.transship\n");
  source_first.put("azure", {x}, 2010);
  EXPECT_EQ(text(source_first), "10.0.0.1 x.transship x.azure.transship\n");
  Directory destination_first("openstack");
  destination_first.put("aws", {x}, 1000);
  destination_first.put("azure", {x}, 2000);
  EXPECT_EQ(text(destination_first), "10.0.0.1 x.transship x.aws.transship\n");
  destination_first.put("aws", {leaving}, 2010);
  EXPECT_EQ(text(destination_first), "10.0.0.1 x.transship x.azure.transship\n");
  EXPECT_EQ(destination_first.rows().size(), 1U);
  // With another identity there, by the driver `hook`.
  destination_first.put("azure", {container("x", "10.0.0.1", "B", "7")}, 2020);
  EXPECT_EQ(text(destination_first), "10.0.0.1 x.transship x.azure.transship\n");
}

// That would be another name, which others may have had before.
TEST(Directory, ARenamedContainerIsNew) {
  Directory d("aws");
  d.put("aws", {container("old", "10.0.0.1", "A", "1")}, 1000);
  d.put("azure", {container("new", "10.0.0.2", "B", "1")}, 2000);
  d.put("aws", {container("new", "10.0.0.1", "A", "1")}, 3000);
  EXPECT_EQ(text(d), "10.0.0.2 new.transship new.azure.transship\n10.0.0.1 new.aws.transship\n");
}

TEST(Directory, TwoNamesThatAreOneInDns) {
  Directory d("aws");
  d.put("aws", {container("a.b", "10.0.0.1", "A", "1"), container("a_b", "10.0.0.2", "A", "2")}, 1000);
  EXPECT_EQ(text(d), "10.0.0.1 a-b.transship a-b.aws.transship\n");
  EXPECT_THAT(d.rows()[1].note, HasSubstr("another container on aws"));
}

TEST(Directory, SilentPeersGoAndOneselfStays) {
  Directory d("aws");
  d.put("aws", {container("a", "10.0.0.1", "A", "1")}, 0);
  d.put("azure", {container("b", "10.0.0.2", "B", "1")}, 0);
  d.put("gcp", {container("c", "10.0.0.3", "C", "1")}, 5000);
  EXPECT_THAT(d.expire(kSilentMs - 1), IsEmpty());
  EXPECT_THAT(d.expire(kSilentMs), ElementsAre("azure"));
  EXPECT_THAT(d.nodes(), ElementsAre("aws", "gcp"));
}

TEST(Directory, RemembersWhatItHasHeard) {
  Directory d("aws");
  d.put("azure", {container("x", "10.0.0.2", "B", "1")}, 1000);
  d.put("aws", {container("x", "10.0.0.1", "A", "1")}, 2000);
  Directory again("aws");
  ASSERT_TRUE(again.load_json(d.to_json(), 9000));
  EXPECT_EQ(text(again), text(d));
  // In whatever order they come now.
  again.put("aws", {container("x", "10.0.0.1", "A", "1")}, 9001);
  again.put("azure", {container("x", "10.0.0.2", "B", "1")}, 9002);
  EXPECT_EQ(text(again), text(d));
  EXPECT_THAT(again.expire(9000 + kSilentMs - 1), IsEmpty());
  for (const char* bad : {"", "{", "[]", "{\"nodes\":{\"a\":[{}]}}", "{\"nodes\":{\"a\":[{\"name\":1}]}}"}) {
    EXPECT_FALSE(again.load_json(bad, 0)) << bad;
    EXPECT_EQ(text(again), text(d));
  }
}

}  // namespace
}  // namespace transship::names
