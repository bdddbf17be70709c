#include "node/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "base/text.h"
#include "sys/file.h"

namespace transship::node {
namespace {

using testing::HasSubstr;

TEST(Config, EmptyFileGivesTheDefaults) {
  auto c = parse_config("", "t.toml");
  ASSERT_TRUE(c);
  EXPECT_EQ(c->listen, "[::]:7440");
  EXPECT_EQ(c->lanes, 2);
  EXPECT_FALSE(c->node_name.empty());
}

TEST(Config, ReadsEveryKind) {
  auto c = parse_config("[node]\nname = \"aws\"\n[podman]\nenabled = false\n[move]\nlanes = 4\n", "t.toml");
  ASSERT_TRUE(c) << c.error().message();
  EXPECT_EQ(c->node_name, "aws");
  EXPECT_FALSE(c->podman_enabled);
  EXPECT_EQ(c->lanes, 4);
}

TEST(Config, ErrorsNameFileLineAndWhatIsAllowed) {
  struct Case {
    const char* text;
    const char* part;
  };
  for (const auto& [text, part] : std::vector<Case>{
           {"[node]\nnmae = \"x\"", "t.toml:2: no such value \"nmae\"; [node] has: name, state_dir"},
           {"[nodes]\n", "no such table [nodes]"},
           {"x = 1", "no such table [x]"},
           {"[move]\nlanes = 0", "move.lanes must be a whole number from 1 to 16"},
           {"[move]\nlanes = \"2\"", "whole number"},
           {"[node]\nstate_dir = \"here\"", "absolute path"},
           {"[node]\nname = \"a/b\"", "t.toml:2: node.name \"a/b\": letters"},
           {"node = 3", "t.toml:1: node is a table: write [node], and its values below: name, state_dir"},
           {"[listen]\naddress = \"0.0.0.0:99999\"", "t.toml:2: listen.address \"0.0.0.0:99999\": "},
           {"[listen]\naddress = \"\"", "t.toml:2: listen.address \"\": "},
           {"[listen]\naddress = \"a b:1\"", "no host name or address"},
           {"[podman]\nprogram = \"\"", "t.toml:2: podman.program \"\": no program"},
           {"[runc]\nprogram = \"\"", "t.toml:2: runc.program \"\": no program"},
           {"[criu]\n\nprogram = \"\"", "t.toml:3: criu.program \"\": no program"},
           {"[podman]\nenabled = 1", "true or false"},
           {"[cutover]\ndriver = \"magic\"", "one of tunnel|hook|none"},
           {"[cutover]\ndriver = \"hook\"", "t.toml:2: cutover.driver is \"hook\" but cutover.hook names no command"},
           {"[cutover]\nhook = \" \"\ndriver = \"hook\"", "t.toml:3: cutover.driver is \"hook\""},
           {"[arbiter]\ntype = \"zookeeper\"", "one of none|etcd"},
           {"[arbiter]\ntype = \"etcd\"", "t.toml:2: arbiter.type is \"etcd\" but arbiter.endpoints names none"},
           {"[arbiter]\nendpoints = \"a:2379\"", "t.toml:2: arbiter.endpoints \"a:2379\": \"a:2379\" is not http"},
           {"[arbiter]\nca = \"ca.pem\"", "absolute path"},
           {"[arbiter]\nprefix = \"/a b\"", "/NAME"},
           {"[arbiter]\nlease_s = 1", "whole number from 5 to 600"},
           {"[arbiter]\nkey = \"/k\"", "arbiter.certificate and arbiter.key belong together"},
           {"[arbiter]\nuser = \"u\"", "arbiter.user and arbiter.password_file belong together"},
           {"[tunnel]\ninterface = \"ts/0\"", "t.toml:2: tunnel.interface \"ts/0\": letters"},
           {"[tunnel]\ninterface = \"0123456789abcdef\"", "at most 11"},
           {"[tunnel]\ninterface = \"tsh1\"", "hold packets"},
           {"[tunnel]\nport = 0", "tunnel.port must be a whole number from 1 to 65535"},
           {"[names]\ndomain = \"Trans_ship\"", "t.toml:2: names.domain \"Trans_ship\": words"},
           {"[names]\ndomain = \"a..b\"", "words"},
           {"[names]\naddress = \"127.0.0.9\"", "loopback"},
           {"[names]\naddress = \"fd00::1\"", "no IPv4"},
           {"[node\n", "t.toml:1"},
       }) {
    auto c = parse_config(text, "t.toml");
    ASSERT_FALSE(c) << text;
    EXPECT_THAT(c.error().message(), HasSubstr(part)) << text;
  }
}

TEST(Config, MissingFileIsAnErrorOnlyWhenNamed) {
  EXPECT_TRUE(load_config("/no/such.toml", false));
  EXPECT_FALSE(load_config("/no/such.toml", true));
}

// The page and the sample file are what users read: they must name every value with its default.
TEST(Config, DocumentationAndSampleAreComplete) {
  auto page = sys::read_file(TS_SOURCE_DIR "/docs/configuration.md");
  auto sample = sys::read_file(TS_SOURCE_DIR "/packaging/transshipd.toml");
  ASSERT_TRUE(page);
  ASSERT_TRUE(sample);
  auto defaults = parse_config("[node]\nname = \"HOSTNAME\"", "defaults");
  for (const auto& key : describe(*defaults)) {
    EXPECT_THAT(*page, HasSubstr(fmt::format("| `{}` | `{}` |", key.name, key.value))) << key.name;
    auto name = key.name.substr(key.name.find('.') + 1);
    EXPECT_THAT(*sample, HasSubstr(fmt::format("# {} = {}\n", name, key.value))) << key.name;
  }
  EXPECT_TRUE(parse_config(*sample, "sample"));
}

}  // namespace
}  // namespace transship::node
