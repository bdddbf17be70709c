#include "node/policy_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/text.h"
#include "sys/file.h"

namespace transship::node {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(PolicyFile, EmptyOrAbsentGivesTheDefaults) {
  for (const auto& set : {parse_policy("", "p.toml"), load_policy("/no/such.toml", false)}) {
    ASSERT_TRUE(set);
    EXPECT_FALSE(set->everyone.privileged);
    EXPECT_THAT(set->everyone.capabilities, IsEmpty());
    EXPECT_THAT(set->peers, IsEmpty());
  }
  EXPECT_EQ(load_policy("/no/such.toml", true).error().code(), Errc::kInvalidArgument);
}

TEST(PolicyFile, APeersValuesStandInPlaceOfEveryones) {
  auto set = parse_policy(
      "[peer.aws.allow]\ncapabilities = [\"SYS_PTRACE\"]\n[peer.aws.limits]\nmemory_mib = 512\n"
      "[allow]\ncapabilities = [\"NET_ADMIN\"]\ndevices = [\"/dev/fuse\"]\n",
      "p.toml");
  ASSERT_TRUE(set) << set.error().message();
  EXPECT_THAT(set->of("azure").capabilities, ElementsAre("NET_ADMIN"));
  EXPECT_EQ(set->of("azure").memory_mib, 0);
  EXPECT_THAT(set->of("aws").capabilities, ElementsAre("SYS_PTRACE"));
  EXPECT_THAT(set->of("aws").devices, ElementsAre("/dev/fuse"));
  EXPECT_EQ(set->of("aws").memory_mib, 512);
}

TEST(PolicyFile, ErrorsNameFileLineAndWhatIsAllowed) {
  struct Case {
    const char* text;
    const char* part;
  };
  for (const auto& [text, part] : std::vector<Case>{
           {"[allow]\nprivileged = 1", "p.toml:2: allow.privileged must be true or false"},
           {"[allow]\nprivilegd = true", "p.toml:2: no such value \"privilegd\"; [allow] has: engines, privileged"},
           {"[alow]\n", "p.toml:1: no such table [alow]; there are: allow, limits"},
           {"x = 1", "p.toml:1: no such table [x]"},
           {"allow = 1", "p.toml:1: allow is a table"},
           {"[allow]\ncapabilities = \"ALL\"", "p.toml:2: allow.capabilities must be a list"},
           {"[allow]\ncapabilities = [1]", "not text in quotes"},
           {"[allow]\n\ndevices = [\"\"]", "p.toml:3: allow.devices: \"\" is empty"},
           {"[allow]\nread_only_mounts = [\"srv\"]", "is not an absolute path"},
           {"[allow]\nwritable_mounts = [\"/srv/../etc\"]", "has .. in it"},
           {"[allow]\nunconfined = [\"everything\"]", "is not one of seccomp|apparmor|label"},
           {"[limits]\nulimits = [\"nofile\"]", "is not NAME=NUMBER"},
           {"[limits]\nmemory_mib = -1", "p.toml:2: limits.memory_mib must be a whole number from 0"},
           {"[peer.aws.allow]\nprivileged = \"yes\"", "p.toml:2: allow.privileged must be true or false"},
           {"[peer.aws]\nprivileged = true", "p.toml:2: no such table [privileged]"},
           {"peer = 3", "p.toml:1: write [peer.NAME.allow]"},
           {"[peer.\"a/b\".allow]\n", "\"a/b\" is no peer"},
           {"[allow\n", "p.toml:1"},
       }) {
    auto set = parse_policy(text, "p.toml");
    ASSERT_FALSE(set) << text;
    EXPECT_EQ(set.error().code(), Errc::kInvalidArgument) << text;
    EXPECT_THAT(set.error().message(), HasSubstr(part)) << text;
  }
}

// The page and the sample file are what users read: they must name every key with its default.
TEST(PolicyFile, DocumentationAndSampleAreComplete) {
  auto page = sys::read_file(TS_SOURCE_DIR "/docs/policy.md");
  auto sample = sys::read_file(TS_SOURCE_DIR "/packaging/policy.toml");
  ASSERT_TRUE(page);
  ASSERT_TRUE(sample);
  for (const auto& key : describe(plan::Policy())) {
    EXPECT_THAT(*page, HasSubstr(fmt::format("| `{}` | `{}` |", key.name, key.value))) << key.name;
    auto name = key.name.substr(key.name.find('.') + 1);
    EXPECT_THAT(*sample, HasSubstr(fmt::format("# {} = {}\n", name, key.value))) << key.name;
  }
  auto parsed = parse_policy(*sample, "sample");
  EXPECT_TRUE(parsed) << parsed.error().message();
}

TEST(PolicyFile, WhatIsPrintedCanBeRead) {
  std::string text;
  std::string table;
  for (const auto& key : describe(plan::Policy())) {
    auto dot = key.name.find('.');
    if (key.name.substr(0, dot) != table) text += fmt::format("[{}]\n", table = key.name.substr(0, dot));
    text += fmt::format("{} = {}\n", key.name.substr(dot + 1), key.value);
  }
  EXPECT_TRUE(parse_policy(text, "printed"));
}

}  // namespace
}  // namespace transship::node
