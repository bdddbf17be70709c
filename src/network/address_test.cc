#include "network/address.h"

#include <gtest/gtest.h>

namespace transship::network {
namespace {

TEST(IpAddress, ParsesAndPrints) {
  for (const char* text : {"10.88.0.3", "0.0.0.0", "2001:db8::7", "::1"}) {
    auto a = IpAddress::parse(text);
    ASSERT_TRUE(a) << text;
    EXPECT_EQ(a->text(), text);
  }
  for (const char* bad : {"", "10.88.0", "10.88.0.3/16", "fe80::1%eth0", "host", "10.88.0.256"})
    EXPECT_FALSE(IpAddress::parse(bad)) << bad;
}

TEST(IpAddress, MappedIsTheSameAsPlain) {
  EXPECT_EQ(*IpAddress::parse("::ffff:10.1.2.3"), *IpAddress::parse("10.1.2.3"));
  EXPECT_EQ(IpAddress::parse("::ffff:10.1.2.3")->bits(), 32U);
}

TEST(IpAddress, KnowsLoopback) {
  EXPECT_TRUE(IpAddress::parse("127.8.9.1")->is_loopback());
  EXPECT_TRUE(IpAddress::parse("::1")->is_loopback());
  EXPECT_FALSE(IpAddress::parse("::2")->is_loopback());
  EXPECT_FALSE(IpAddress::parse("128.0.0.1")->is_loopback());
}

}  // namespace
}  // namespace transship::network
