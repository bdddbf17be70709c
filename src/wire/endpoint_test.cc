#include "wire/endpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "wire/testing.h"

namespace transship::wire {
namespace {

using testing::never;
using testing::soon;

TEST(Endpoint, Parses) {
  EXPECT_EQ(parse_endpoint("azure").value(), (Endpoint{"azure", 7440}));
  EXPECT_EQ(parse_endpoint("azure.example:99").value(), (Endpoint{"azure.example", 99}));
  EXPECT_EQ(parse_endpoint("192.0.2.1:7441").value(), (Endpoint{"192.0.2.1", 7441}));
  EXPECT_EQ(parse_endpoint("2001:db8::1").value(), (Endpoint{"2001:db8::1", 7440}));
  EXPECT_EQ(parse_endpoint("[2001:db8::1]:1").value(), (Endpoint{"2001:db8::1", 1}));
  EXPECT_EQ(parse_endpoint("[::]:0", true).value(), (Endpoint{"::", 0}));
  EXPECT_EQ(to_text({"2001:db8::1", 1}), "[2001:db8::1]:1");
  EXPECT_EQ(to_text({"azure", 2}), "azure:2");
}

TEST(Endpoint, RefusesWhatIsNone) {
  for (const char* bad : {"", ":7440", "azure:", "azure:0", "azure:65536", "azure:7x", "[::1", "[::1]7440", "[]:1",
                          "[azure]:1", "-azure", "a b", "a/b", "1:2:3", "azure:-1", "a;b:1"}) {
    auto r = parse_endpoint(bad);
    EXPECT_FALSE(r) << bad;
    EXPECT_EQ(r ? Errc::kInternal : r.error().code(), Errc::kInvalidArgument) << bad;
  }
  EXPECT_FALSE(parse_endpoint(std::string(300, 'a')));
}

TEST(Endpoint, ResolvesNamesInAChild) {
  auto r = resolve({"localhost", 5}, soon(), never());
  ASSERT_TRUE(r) << r.error().message();
  EXPECT_THAT(to_endpoint(r->front()).host, ::testing::AnyOf("127.0.0.1", "::1"));
  EXPECT_EQ(to_endpoint(r->front()).port, 5);
}

TEST(Endpoint, UnknownNameSaysSo) {
  auto r = resolve({"no-such-host.invalid", 5}, soon(), never());
  ASSERT_FALSE(r);
  EXPECT_THAT(r.error().message(), ::testing::HasSubstr("no-such-host.invalid"));
}

TEST(Endpoint, RefusedConnectionNamesTheAddress) {
  Endpoint dead;
  {
    testing::LoopbackServer server;
    dead = server.endpoint;
  }
  auto r = connect_tcp(dead, soon(), never());
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kUnavailable);
  EXPECT_EQ(r.error().message(), "connect to " + to_text(dead) + ": Connection refused");
  auto by_name = connect_tcp({"localhost", dead.port}, soon(), never());
  ASSERT_FALSE(by_name);
  EXPECT_THAT(by_name.error().message(), ::testing::HasSubstr(": " + to_text(dead) + ": Connection refused"));
  EXPECT_FALSE(r.error().remedy().empty());
}

TEST(Endpoint, CancelledConnectEnds) {
  Cancel cancel = never();
  cancel.cancel("no more");
  testing::LoopbackServer server;
  auto r = connect_tcp(server.endpoint, soon(), cancel);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kCancelled);
}

}  // namespace
}  // namespace transship::wire
