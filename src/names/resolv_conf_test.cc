#include "names/resolv_conf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace transship::names {
namespace {

using testing::ElementsAre;
using testing::StartsWith;

constexpr const char* kOurs = "169.254.185.53";

// Whatever the file looks like, it comes back byte for byte.
TEST(ResolvConf, WhatGoesInComesOut) {
  for (std::string text :
       {std::string(), std::string("\n"), std::string("nameserver 10.0.0.1\n"), std::string("nameserver 10.0.0.1"),
        std::string("# comment\n\nsearch a b\noptions ndots:2\nnameserver ::1\n"),
        std::string("\r\nnameserver 1.2.3.4\r\n"), std::string("nameserver 169.254.185.53\n"),
        std::string("\0binary\xff", 8), std::string("nameserver\n")}) {
    auto with = with_nameserver(text, kOurs);
    EXPECT_EQ(without_nameserver(with), text);
    EXPECT_EQ(with_nameserver(with, kOurs), with) << "twice is once";
    EXPECT_EQ(nameservers(with, {}).front(), kOurs);
    EXPECT_TRUE(with.ends_with(text));
  }
}

TEST(ResolvConf, NothingOfOursMeansNothingToDo) {
  std::string text = "# transship was here\nnameserver 169.254.185.53\n";
  EXPECT_EQ(without_nameserver(text), text);
}

TEST(ResolvConf, AnotherAddressReplacesTheFirst) {
  auto with = with_nameserver(with_nameserver("nameserver 10.0.0.1\n", "169.254.1.1"), kOurs);
  EXPECT_THAT(nameservers(with, {}), ElementsAre(kOurs, "10.0.0.1"));
}

// Somebody has taken our line out, or put something between.
TEST(ResolvConf, AMarkWithoutItsLineGoesAlone) {
  auto with = with_nameserver("", kOurs);
  auto mark = with.substr(0, with.find('\n') + 1);
  EXPECT_EQ(without_nameserver(mark), "");
  EXPECT_EQ(without_nameserver(mark + "search x\n"), "search x\n");
  EXPECT_EQ(without_nameserver("a\n" + mark + "# b\nnameserver 10.0.0.1\n"), "a\n# b\nnameserver 10.0.0.1\n");
}

TEST(ResolvConf, ReadsNameserversAsResolversDo) {
  EXPECT_THAT(nameservers("#nameserver 1.1.1.1\n nameserver 2.2.2.2\nnameservers 3.3.3.3\nnameserver\t4.4.4.4 # x\n"
                          "nameserver  fd00::1\r\nnameserver 4.4.4.4\nnameserver",
                          {}),
              ElementsAre("4.4.4.4", "fd00::1"));
  EXPECT_THAT(nameservers("nameserver 1.1.1.1\nnameserver 2.2.2.2\n", {"1.1.1.1"}), ElementsAre("2.2.2.2"));
  EXPECT_TRUE(has_nameserver("nameserver 1.1.1.1\n", "1.1.1.1"));
  EXPECT_FALSE(has_nameserver("nameserver 1.1.1.11\n", "1.1.1.1"));
}

}  // namespace
}  // namespace transship::names
