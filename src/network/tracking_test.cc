#include "network/tracking.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "network/test_net.h"

namespace transship::network {
namespace {

using ::testing::HasSubstr;
using testing::join;
using testing::Net;
using ::testing::Not;

TEST(TrackingTest, ForgetsWhatIsAskedAndNothingElse) {
  if (auto why = testing::why_no_namespaces(); !why.empty()) GTEST_SKIP() << why;
  Net client("client"), host("host");
  join(client, "c0", host, "h0");
  (void)client.sh("ip addr add 10.5.0.1/24 dev c0; ip addr add fd05::1/64 dev c0 nodad");
  // 10.5.0.7 is translated to 10.5.0.3.
  (void)host.sh(
      "ip addr add 10.5.0.2/24 dev h0; ip addr add 10.5.0.3/24 dev h0; ip addr add 10.5.0.7/24 dev h0; "
      "ip addr add fd05::2/64 dev h0 nodad; ip addr add fd05::3/64 dev h0 nodad; "
      "nft 'add table inet t; add chain inet t in { type nat hook prerouting priority dstnat; }; "
      "add rule inet t in ip daddr 10.5.0.7 dnat ip to 10.5.0.3; add chain inet t out { type filter hook output "
      "priority "
      "0; }; add rule inet t out ct state new accept'");
  // 10.5.0.8 leads there as well, by a zone of its own: that is an entry's.
  (void)host.sh(
      "ip addr add 10.5.0.8/24 dev h0; nft 'add chain inet t early { type filter hook prerouting priority raw; }; "
      "add rule inet t early ip daddr 10.5.0.8 ct zone set 7401; add rule inet t in ip daddr 10.5.0.8 dnat ip to "
      "10.5.0.3'");
  (void)client.sh("ping -qc1 -W2 10.5.0.8 >/dev/null || true");  // replies have another zone here
  (void)client.sh("for a in 10.5.0.2 10.5.0.3 10.5.0.7 fd05::2 fd05::3; do ping -qc1 -W2 $a >/dev/null; done");
  auto all = [&] { return host.sh("conntrack -L -f ipv4 2>/dev/null; conntrack -L -f ipv6 2>/dev/null"); };
  ASSERT_THAT(all(), HasSubstr("dst=10.5.0.3"));
  ASSERT_THAT(all(), HasSubstr("src=fd05::3"));
  ASSERT_THAT(all(), HasSubstr("dst=10.5.0.7"));
  host.in([] {
    auto n = forget_connections({*IpAddress::parse("10.5.0.3"), *IpAddress::parse("fd05::3")});
    ASSERT_TRUE(n) << n.error().message();
    EXPECT_EQ(*n, 3U);
    EXPECT_EQ(forget_connections({*IpAddress::parse("10.5.0.3")}).value_or(99), 0U);
    EXPECT_EQ(forget_connections({}).value_or(99), 0U);
  });
  EXPECT_THAT(all(), HasSubstr("10.5.0.8"));
  EXPECT_THAT(host.sh("conntrack -L -f ipv4 -w 0 2>/dev/null"), Not(HasSubstr("10.5.0.3")));
  EXPECT_THAT(all(), Not(HasSubstr("fd05::3")));
  EXPECT_THAT(all(), HasSubstr("10.5.0.2"));
  EXPECT_THAT(all(), HasSubstr("fd05::2"));
}

}  // namespace
}  // namespace transship::network
