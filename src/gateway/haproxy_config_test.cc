#include "gateway/haproxy_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace transship::gateway {
namespace {

using network::IpAddress;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

GatewayOptions options() {
  GatewayOptions o;
  o.directory = "/run/d";
  o.threads = 3;
  return o;
}

Backend backend(const char* name, const char* address) {
  return {.name = name, .address = *IpAddress::parse(address), .port = 20'001};
}

TEST(HaproxyConfig, AnEntryOfItsOwn) {
  auto text = haproxy_config(options(), {.port = 8080, .health = {}}, {.uid = 101, .gid = 103});
  for (const char* line : {"uid 101\n", "gid 103\n", "nbthread 3\n", "chroot /run/d/empty\n", "bind 0.0.0.0:8080\n",
                           "bind [::]:8080 v6only\n", "option forwardfor\n",
                           "stats socket /run/d/8080.sock mode 600 user root group root level admin",
                           "default_backend containers\n", "backend containers\n", "balance leastconn\n"})
    EXPECT_THAT(text, HasSubstr(line));
  EXPECT_THAT(text, Not(HasSubstr("httpchk")));
  auto o = options();
  o.ipv6 = false;
  text = haproxy_config(o, {.port = 80, .health = "/ready?db=1"}, {});
  EXPECT_THAT(text, HasSubstr("bind 0.0.0.0:80\n"));
  EXPECT_THAT(text, Not(HasSubstr("::]:80")));
  EXPECT_THAT(text, HasSubstr("option httpchk\n  http-check send meth GET uri /ready?db=1 ver HTTP/1.1"));
}

// What is put behind the configuration must leave it as it is: by its beginning the daemon knows its own.
TEST(HaproxyConfig, ServersAtTheStartAndLater) {
  auto web = backend("web-20001", "169.254.185.80");
  auto gone = backend("old-20002", "fd80::80");
  gone.draining = true;
  auto lines = server_lines({web, gone});
  EXPECT_THAT(lines, HasSubstr("  server web-20001 169.254.185.80:20001 check inter"));
  EXPECT_THAT(lines, Not(HasSubstr("old-")));
  EXPECT_THAT(add_commands(backend("web-20001", "fd80::80")),
              ElementsAre(HasSubstr("add server containers/web-20001 [fd80::80]:20001 check "),
                          "enable health containers/web-20001", "enable server containers/web-20001"));
  EXPECT_THAT(remove_commands("web-1"),
              ElementsAre("set server containers/web-1 state maint", "shutdown sessions server containers/web-1",
                          "del server containers/web-1"));
  EXPECT_EQ(server_name("web", 20'001), "web-20001");
}

TEST(HaproxyConfig, APathIsNothingElse) {
  for (const char* good : {"/", "/health", "/a/b.c~d_e-f?x=1&y=%20+,:@"}) EXPECT_TRUE(check_health_path(good)) << good;
  for (const std::string& bad :
       {std::string(), std::string("health"), std::string("/a b"), std::string("/a\nserver x"), std::string("/a;b"),
        std::string("/a#b"), std::string("/a\"b"), std::string("/a'b"), std::string("/a\\b"), std::string("/$HOME"),
        std::string("/a\0b", 4), "/" + std::string(256, 'a')})
    EXPECT_FALSE(check_health_path(bad)) << bad;
}

}  // namespace
}  // namespace transship::gateway
