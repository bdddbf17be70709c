#include "cli/args.h"

#include <gtest/gtest.h>

#include "base/text.h"

namespace transship::cli {
namespace {

std::variant<Arguments, Stop> parse(const std::string& line) { return parse_arguments(split(line, ' ')); }

Arguments good(const std::string& line) {
  auto parsed = parse(line);
  if (auto* stop = std::get_if<Stop>(&parsed)) {
    ADD_FAILURE() << line << ": " << stop->err;
    return {};
  }
  return std::get<Arguments>(parsed);
}

std::string usage_error(const std::string& line) {
  auto parsed = parse(line);
  auto* stop = std::get_if<Stop>(&parsed);
  if (stop == nullptr) return "was accepted: " + line;
  EXPECT_EQ(stop->exit_code, 2) << line;
  EXPECT_EQ(stop->out, "") << line;
  return stop->err;
}

TEST(Arguments, Move) {
  Arguments a = good("move podman:redis --to azure --keep-source --bwlimit 1.5gbit -v");
  EXPECT_EQ(a.command, Command::kMove);
  EXPECT_EQ(a.name, "podman:redis");
  EXPECT_EQ(a.to, "azure");
  EXPECT_TRUE(a.keep_source);
  EXPECT_TRUE(a.verbose);
  EXPECT_FALSE(a.detach);
  EXPECT_EQ(a.max_bits_per_second, 1'500'000'000U);
}

TEST(Arguments, NewIp) {
  EXPECT_TRUE(good("move redis --to azure --new-ip").new_ip);
  EXPECT_TRUE(good("plan redis --to azure --new-ip --json").new_ip);
  EXPECT_FALSE(good("move redis --to azure").new_ip);
  EXPECT_NE(usage_error("ps --new-ip").find("--new-ip"), std::string::npos);
}

TEST(Arguments, EveryCommandIsKnown) {
  EXPECT_EQ(good("ps -a").command, Command::kPs);
  EXPECT_EQ(good("plan x --to y").command, Command::kPlan);
  EXPECT_EQ(good("moves -n 3").limit, 3U);
  EXPECT_EQ(good("show m1").command, Command::kShow);
  EXPECT_EQ(good("cancel m1").command, Command::kCancel);
  EXPECT_EQ(good("peer add azure 10.0.0.1").command, Command::kPeerAdd);
  EXPECT_EQ(good("peer ls").command, Command::kPeerLs);
  EXPECT_EQ(good("peer rm azure").command, Command::kPeerRm);
  EXPECT_EQ(good("peer check azure").command, Command::kPeerCheck);
  EXPECT_EQ(good("network check").command, Command::kNetworkCheck);
  EXPECT_FALSE(good("network check").repair);
  EXPECT_TRUE(good("network check --repair --json").repair);
  EXPECT_EQ(good("names").command, Command::kNames);
  EXPECT_EQ(good("names ls --json").command, Command::kNames);
  EXPECT_EQ(good("names setup").command, Command::kNamesSetup);
  EXPECT_EQ(good("names remove").command, Command::kNamesRemove);
  EXPECT_EQ(good("expose ls --json").command, Command::kExposeLs);
  EXPECT_EQ(good("node info --json").command, Command::kNodeInfo);
  EXPECT_EQ(good("version").command, Command::kVersion);
}

TEST(Arguments, Expose) {
  Arguments a = good("expose podman:dns 53/udp --on azure:5353");
  EXPECT_EQ(a.command, Command::kExpose);
  EXPECT_EQ(a.name, "podman:dns");
  EXPECT_EQ(a.container_port.port, 53U);
  EXPECT_EQ(a.container_port.protocol, "udp");
  EXPECT_EQ(a.entry.node, "azure");
  EXPECT_EQ(a.entry.port, 5353U);
  a = good("expose redis 6379 --on aws --json");
  EXPECT_EQ(a.container_port.protocol, "tcp");
  EXPECT_EQ(a.entry.port, 0U);
  a = good("expose rm azure:5353/udp");
  EXPECT_EQ(a.command, Command::kExposeRm);
  EXPECT_EQ(a.entry.node + a.entry.protocol, "azureudp");
  EXPECT_EQ(a.entry.port, 5353U);
  EXPECT_EQ(good("expose rm aws:1").entry.protocol, "tcp");
  for (const char* line : {"expose", "expose redis", "expose redis 6379", "expose redis --on aws"})
    EXPECT_NE(usage_error(line).find("give NAME PORT --on NODE[:PORT]"), std::string::npos) << line;
  for (const char* line :
       {"expose redis 0 --on aws", "expose redis 65536 --on aws", "expose redis 1 --on aws:x", "expose rm aws:/tcp"})
    EXPECT_NE(usage_error(line).find("is not a port"), std::string::npos) << line;
  EXPECT_NE(usage_error("expose redis 1/sctp --on aws").find("tcp, udp or http"), std::string::npos);
  a = good("expose web 8080/http --on aws:80 --health /ready");
  EXPECT_EQ(a.container_port.protocol, "http");
  EXPECT_EQ(a.health, "/ready");
  a = good("expose rm aws:80/http web1");
  EXPECT_EQ(a.entry.protocol, "http");
  EXPECT_EQ(a.name, "web1");
  EXPECT_NE(usage_error("expose rm aws:80 web1").find("NAME is for NODE:PORT/http"), std::string::npos);
  EXPECT_NE(usage_error("expose web 80 --on aws --health /x").find("PORT/http"), std::string::npos);
  EXPECT_NE(usage_error("expose web 80/http --on aws --health x").find("begins with /"), std::string::npos);
  EXPECT_NE(usage_error("expose redis 1 --on a/b").find("is not an entry"), std::string::npos);
  EXPECT_NE(usage_error("expose rm aws").find("has no port"), std::string::npos);
}

TEST(Arguments, SocketBeforeOrAfterTheCommand) {
  EXPECT_EQ(good("--socket /a ps").socket, "/a");
  EXPECT_EQ(good("ps --socket /a").socket, "/a");
  EXPECT_EQ(good("ps").socket, "/run/transship/transshipd.sock");
}

TEST(Arguments, WhatIsWrongIsSaid) {
  EXPECT_NE(usage_error("move redis").find("--to is required"), std::string::npos);
  EXPECT_NE(usage_error("move --to azure").find("container is required"), std::string::npos);
  EXPECT_NE(usage_error("move ../x --to azure").find("is not a container"), std::string::npos);
  EXPECT_NE(usage_error("move redis --to -x").find("--to"), std::string::npos);
  EXPECT_NE(usage_error("move redis --to azure --bwlimit fast").find("is not a rate"), std::string::npos);
  EXPECT_NE(usage_error("move redis --to azure -q -v").find("excludes"), std::string::npos);
  EXPECT_NE(usage_error("peer add azure").find("give ADDRESS, or --ssh"), std::string::npos);
  EXPECT_NE(usage_error("peer add azure --ssh -oProxyCommand=x").find("--ssh"), std::string::npos);
  EXPECT_NE(usage_error("peer add azure a --ssh b@c --fingerprint " + std::string("SHA256:") + std::string(43, 'd'))
                .find("excludes"),
            std::string::npos);
  EXPECT_NE(usage_error("peer add azure a --own-address b").find("requires --ssh"), std::string::npos);
  for (const char* line : {"nonsense", "peer nonsense", "nonsense --json", "--socket /a nonsense x"})
    EXPECT_NE(usage_error(line).find("there is no command \"nonsense\""), std::string::npos) << line;
  EXPECT_NE(usage_error("plan nonsense").find("--to is required"), std::string::npos);
  EXPECT_NE(usage_error("peer ls nonsense").find("not expected: nonsense"), std::string::npos);
  EXPECT_NE(usage_error("peer").find("subcommand is required"), std::string::npos);
  EXPECT_NE(usage_error("nonsense").find("Run with --help"), std::string::npos);
}

TEST(Arguments, FingerprintsAreCheckedBeforeAnythingIsAsked) {
  std::string good_one = "SHA256:VL7vMB18KA/BccXe86WqswmDhk1zgBPvY7/Td8dDy+4";
  EXPECT_EQ(good("peer add azure a --fingerprint " + good_one).fingerprint, good_one);
  for (std::string bad : {std::string("x"), good_one + "=", good_one.substr(1), good_one.substr(0, 49) + "!"})
    EXPECT_NE(usage_error("peer add azure a --fingerprint " + bad).find("is not a fingerprint"), std::string::npos)
        << bad;
}

TEST(Arguments, EveryHelpListsTheExitCodes) {
  for (const char* line :
       {"--help", "ps --help", "plan --help", "move --help", "moves --help", "show --help", "cancel --help",
        "peer --help", "peer add --help", "peer ls --help", "peer rm --help", "peer check --help", "expose --help",
        "expose ls --help", "expose rm --help", "node --help", "node info --help", "version --help"}) {
    auto parsed = parse(line);
    auto* stop = std::get_if<Stop>(&parsed);
    ASSERT_NE(stop, nullptr) << line;
    EXPECT_EQ(stop->exit_code, 0) << line;
    EXPECT_NE(stop->out.find("Examples:"), std::string::npos) << line;
    EXPECT_NE(stop->out.find("130  cancelled"), std::string::npos) << line;
  }
}

TEST(BitRate, UnitsAndLimits) {
  EXPECT_EQ(*parse_bit_rate("800kbit"), 800'000U);
  EXPECT_EQ(*parse_bit_rate("100Mbit/s"), 100'000'000U);
  for (const char* slow : {"1kbit", "0.5kbit", "799kbit", "0.79mbit"})
    EXPECT_NE(parse_bit_rate(slow).error().message().find("800kbit or more"), std::string::npos) << slow;
  for (const char* bad : {"", "100", "mbit", "-1mbit", "1e3mbit", "nanmbit", "0mbit", "0.5kbit", "99999gbit", "1mbits"})
    EXPECT_FALSE(parse_bit_rate(bad)) << bad;
}

}  // namespace
}  // namespace transship::cli
