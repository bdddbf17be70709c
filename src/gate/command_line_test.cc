#include "gate/command_line.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace transship::gate {
namespace {

using Words = std::vector<std::string>;

TEST(CommandLine, AsConmonCallsIt) {
  auto line =
      parse_command_line({"--systemd-cgroup", "--log-format=json", "--log", "/run/x/oci-log", "create", "--bundle",
                          "/b/userdata", "--pid-file", "/b/pidfile", "--preserve-fds", "2", "--no-pivot", "abc123"});
  EXPECT_EQ(line.verb, "create");
  EXPECT_EQ(line.id, "abc123");
  EXPECT_EQ(line.bundle, "/b/userdata");
  EXPECT_EQ(line.log, "/run/x/oci-log");
  EXPECT_TRUE(line.log_json);
  EXPECT_EQ(line.globals, (Words{"--systemd-cgroup", "--log-format=json", "--log", "/run/x/oci-log"}));
}

TEST(CommandLine, VerbAfterOptionValueThatLooksLikeAVerb) {
  auto line = parse_command_line({"--root", "create", "state", "x"});
  EXPECT_EQ(line.verb, "state");
  EXPECT_EQ(line.id, "x");
}

TEST(CommandLine, BundleIsTheCurrentDirectoryByDefault) {
  EXPECT_EQ(parse_command_line({"create", "x"}).bundle, ".");
  EXPECT_EQ(parse_command_line({"create", "-b", "/y", "x"}).bundle, "/y");
  EXPECT_EQ(parse_command_line({"create", "-bundle=/z", "x"}).bundle, "/z");
}

TEST(CommandLine, WithoutVerb) {
  auto line = parse_command_line({"--version"});
  EXPECT_EQ(line.verb, "");
  EXPECT_EQ(line.globals, Words{"--version"});
  EXPECT_EQ(parse_command_line({}).verb, "");
  EXPECT_EQ(parse_command_line({"--root"}).verb, "");
}

TEST(CommandLine, CommandOfTheUserIsNotLookedInto) {
  auto line = parse_command_line({"exec", "id1", "sh", "-c", "create"});
  EXPECT_EQ(line.verb, "exec");
  EXPECT_EQ(line.rest, (Words{"id1", "sh", "-c", "create"}));
}

TEST(RestoreArguments, KeepsWhatRestoreKnowsAndDropsTheRest) {
  auto create =
      parse_command_line({"--log", "/e/log", "create", "-b", "/b", "--console-socket", "/c", "--pid-file", "/p",
                          "--preserve-fds", "3", "--no-new-keyring", "--pidfd-socket", "/q", "--no-pivot", "id1"});
  auto args = restore_arguments(create, "/img", "/work", "/work/runc.log");
  EXPECT_EQ(args, (Words{"--log", "/e/log", "--log", "/work/runc.log", "--log-format", "json", "restore", "--detach",
                         "--tcp-established", "--file-locks", "--image-path", "/img", "--work-path", "/work", "-b=/b",
                         "--console-socket=/c", "--pid-file=/p", "--no-pivot", "id1"}))
      << testing::PrintToString(args);
}

}  // namespace
}  // namespace transship::gate
