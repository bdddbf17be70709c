#include "migrate/exposures.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "base/wall_clock.h"
#include "migrate/placements.h"
#include "migrate/test_node.h"

namespace transship::migrate {
namespace {

using network::IpAddress;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Paths final : TunnelPaths {
  Result<std::string> interface_to(const std::string& peer) const override {
    if (peer == "azure") return "ts4";
    return fail(Errc::kUnavailable, "there is no tunnel to {}", peer);
  }
  std::vector<std::string> interfaces() const override { return {"ts4"}; }
};

// A port that nothing has at the moment.
uint16_t free_port() {
  Fd fd(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in6 any = {};
  any.sin6_family = AF_INET6;
  socklen_t size = sizeof any;
  EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&any), size), 0);
  EXPECT_EQ(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&any), &size), 0);
  return ntohs(any.sin6_port);
}

Exposure redis(const std::string& entry, const std::string& home, uint16_t port) {
  return {.entry = entry,
          .home = home,
          .port = port,
          .name = "redis",
          .engine = "podman",
          .addresses = {{*IpAddress::parse("10.88.0.3"), 16}, {*IpAddress::parse("fd88::3"), 0}},
          .container_port = 6379};
}

struct ExposuresTest : ::testing::Test {
  ExposuresTest() { begin(); }
  void begin() {
    exposures.reset();
    store.reset();
    store = file.open();
    exposures.emplace(*store, "SHA256:own");
    ASSERT_TRUE(exposures->load());
  }
  network::Placement placement() const {
    network::Placement p;
    exposures->add_to(p, paths);
    return p;
  }
  testing::StoreFile file;
  Paths paths;
  std::unique_ptr<state::Store> store;
  std::optional<Exposures> exposures;
};

TEST_F(ExposuresTest, AreThereAgainAfterARestartAndTheEntryIsToldAgain) {
  auto here = redis("SHA256:own", "SHA256:own", free_port()), there = redis("SHA256:azure", "SHA256:own", 7379);
  here.protocol = "udp";
  there.entry_knows = true;
  ASSERT_TRUE(exposures->put(here));
  ASSERT_TRUE(exposures->put(there));
  EXPECT_EQ(exposures->find(there.key()), there);
  begin();
  there.entry_knows = false;
  EXPECT_THAT(exposures->all(), ::testing::UnorderedElementsAre(here, there));
  ASSERT_TRUE(exposures->remove(here.key()));
  ASSERT_TRUE(exposures->remove(here.key()));
  begin();
  EXPECT_THAT(exposures->all(), ElementsAre(there));
}

TEST_F(ExposuresTest, APortOfThisNodeIsHeld) {
  auto e = redis("SHA256:own", "SHA256:own", free_port());
  ASSERT_TRUE(exposures->put(e));
  ASSERT_TRUE(exposures->put(e));
  Exposures second(*store, "SHA256:own");
  auto taken = second.put(e);
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().code(), Errc::kAlreadyExists);
  EXPECT_EQ(taken.error().message(), fmt::format("port {}/tcp is taken: something listens there", e.port));
  ASSERT_TRUE(exposures->remove(e.key()));
  EXPECT_TRUE(second.put(e));
  EXPECT_EQ(second.add(e).error().message(), fmt::format("port {}/tcp leads to redis already", e.port));
  // That of another node is its own affair.
  EXPECT_TRUE(exposures->put(redis("SHA256:azure", "SHA256:own", e.port)));
}

TEST_F(ExposuresTest, WhatHasBeenRemovedDoesNotComeBack) {
  auto e = redis("SHA256:azure", "SHA256:own", 7379);
  ASSERT_TRUE(exposures->update(e));
  EXPECT_THAT(exposures->all(), IsEmpty());
  ASSERT_TRUE(exposures->add(e));
  e.entry_knows = true;
  ASSERT_TRUE(exposures->update(e));
  EXPECT_TRUE(exposures->find(e.key())->entry_knows);
}

TEST_F(ExposuresTest, WhatTheKernelIsToHaveOfThem) {
  EXPECT_TRUE(network::is_empty(placement()));
  ASSERT_TRUE(store->add_peer({.name = "azure", .address = "", .fingerprint = "SHA256:azure"}));
  auto port = free_port();
  ASSERT_TRUE(exposures->put(redis("SHA256:azure", "SHA256:own", 7379)));
  ASSERT_TRUE(exposures->put(redis("SHA256:own", "SHA256:azure", port)));
  ASSERT_TRUE(exposures->put(redis("SHA256:gone", "SHA256:own", 7379)));
  auto p = placement();
  auto e = redis("", "", port);
  EXPECT_THAT(p.entries, ElementsAre(network::EntryPort{"tcp", port, e.addresses, 6379, "ts4"}));
  std::vector<IpAddress> addresses = {e.addresses[0].address, e.addresses[1].address};
  EXPECT_THAT(p.exposed, ::testing::UnorderedElementsAre(network::ExposedPort{"tcp", addresses, 6379, "ts4"},
                                                         network::ExposedPort{"tcp", addresses, 6379, ""}));
  EXPECT_THAT(p.tunnels, ElementsAre("ts4"));
  EXPECT_EQ(p.entry_sources, network::entry_sources("SHA256:own"));
  auto ending = redis("SHA256:azure", "SHA256:own", 7379);
  ending.ending = true;
  ASSERT_TRUE(exposures->put(ending));
  EXPECT_THAT(placement().exposed, ElementsAre(network::ExposedPort{"tcp", addresses, 6379, ""}));
  ASSERT_TRUE(exposures->put(redis("SHA256:own", "SHA256:gone", port)));
  EXPECT_TRUE(placement().entries[0].shut);
}

TEST_F(ExposuresTest, WhatCannotBeReadIsNamedAndTheRestIsThere) {
  auto e = redis("SHA256:azure", "SHA256:own", 7379);
  ASSERT_TRUE(exposures->put(e));
  ASSERT_TRUE(store->put_exposed({"bad/tcp/1", "{"}));
  ASSERT_TRUE(store->put_exposed({"other/tcp/1", to_text(e)}));
  Exposures again(*store, "SHA256:own");
  auto loaded = again.load();
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code(), Errc::kCorrupt);
  EXPECT_EQ(again.all().size(), 1U);
}

TEST(ExposedAddress, TextAndBack) {
  for (const char* text : {"10.88.0.3/16", "fd88::3/64", "10.88.0.3"})
    EXPECT_EQ(exposed_address_text(*parse_exposed_address(text)), text);
  for (const char* bad : {"", "x", "10.88.0.3/33", "fd88::3/129", "10.88.0.3/", "10.88.0.3/-1"})
    EXPECT_FALSE(parse_exposed_address(bad)) << bad;
}

Exposure web(const std::string& entry, const std::string& home, const std::string& name) {
  Exposure e = redis(entry, home, 8080);
  e.protocol = "http";
  e.name = name;
  e.health = "/ready";
  return e;
}

TEST_F(ExposuresTest, OfHttpSeveralShareAPort) {
  ASSERT_TRUE(exposures->add(web("SHA256:own", "SHA256:azure", "web")));
  ASSERT_TRUE(exposures->add(web("SHA256:own", "SHA256:gcp", "web")));
  ASSERT_TRUE(exposures->add(web("SHA256:own", "SHA256:own", "web2")));
  EXPECT_EQ(exposures->add(web("SHA256:own", "SHA256:own", "web2")).error().code(), Errc::kAlreadyExists);
  begin();
  std::vector<uint16_t> inner;
  for (const auto& e : exposures->all()) inner.push_back(e.inner_port);
  EXPECT_THAT(inner, ::testing::UnorderedElementsAre(20'000, 20'001, 20'002));
  ASSERT_TRUE(exposures->remove(web("SHA256:own", "SHA256:gcp", "web").key()));
  ASSERT_TRUE(exposures->add(web("SHA256:own", "SHA256:own", "web3")));
  auto p = placement();
  ASSERT_EQ(p.entries.size(), 3U);
  for (const auto& e : p.entries) EXPECT_TRUE(e.inner && e.protocol == "tcp" && e.port >= 20'000 && e.port <= 20'002);
}

TEST_F(ExposuresTest, AHomeKeepsTheWayOpenWhileRequestsRun) {
  auto e = web("SHA256:azure", "SHA256:own", "web");
  e.ending = true;
  e.ending_ms = unix_ms_now();
  ASSERT_TRUE(exposures->put(e));
  EXPECT_EQ(placement().exposed.size(), 1U);
  // Or its clock has been set back.
  for (int64_t off : {-41'000, 60'000}) {
    e.ending_ms = unix_ms_now() + off;
    ASSERT_TRUE(exposures->put(e));
    EXPECT_THAT(placement().exposed, IsEmpty());
  }
}

TEST_F(ExposuresTest, ReadsWhatAnEarlierVersionWrote) {
  auto e = parse_exposure("a/tcp/1", R"({"entry":"a","home":"b","protocol":"tcp","port":1,"name":"n","engine":"",
    "container_port":2,"entry_knows":true,"ending":false,"addresses":[]})");
  ASSERT_TRUE(e) << e.error().message();
  EXPECT_EQ(e->health, "");
  EXPECT_EQ(parse_exposure(web("a", "b", "n").key(), to_text(web("a", "b", "n")))->health, "/ready");
}

}  // namespace
}  // namespace transship::migrate
