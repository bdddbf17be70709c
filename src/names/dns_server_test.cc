#include "names/dns_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace transship::names {
namespace {

using network::IpAddress;
using testing::HasSubstr;
using testing::Not;

DnsServerOptions options() {
  DnsServerOptions o;
  o.addresses = {IpAddress::parse("169.254.185.53").value(), IpAddress::parse("fd80::53").value()};
  o.domain = "x.test";
  o.directory = "/run/d";
  return o;
}

TEST(DnsServer, AnswersOnItsAddressesOnlyAndForwardsNothingOfItsDomain) {
  auto text = dnsmasq_config(options(), "nobody");
  for (const char* line :
       {"listen-address=169.254.185.53\n", "listen-address=fd80::53\n", "bind-interfaces\n", "no-hosts\n",
        "local=/x.test/\n", "addn-hosts=/run/d/hosts\n", "resolv-file=/run/d/upstream.conf\n", "local-ttl=1\n",
        "user=nobody\n", "pid-file=/run/d/pid\n"})
    EXPECT_THAT(text, HasSubstr(line));
  EXPECT_THAT(text, Not(HasSubstr("dhcp")));
}

TEST(DnsServer, TheFirewallLetsInThisHostAndItsContainers) {
  auto text = firewall_script(options());
  EXPECT_THAT(text, HasSubstr("ip daddr 169.254.185.53 iif lo accept\n"));
  EXPECT_THAT(text, HasSubstr("ip6 daddr fd80::53 drop\n"));
  EXPECT_LT(text.find("iifkind"), text.find("drop"));
}

}  // namespace
}  // namespace transship::names
