// The daemon's configuration.
#include "node/config.h"
#include "fuzz/target.h"

namespace transship::fuzz {
namespace {

void run(std::string_view bytes) {
  auto config = node::parse_config(bytes, "transshipd.toml");
  if (!config) {
    TS_CHECK(config.error().code() == Errc::kInvalidArgument && !config.error().message().empty());
    return;
  }
  TS_CHECK(config->lanes >= 1 && config->lanes <= 16 && config->state_dir.starts_with('/'));
  TS_CHECK(!node::describe(*config).empty());
}

std::vector<std::string> seeds() {
  // What --check-config prints, by table.
  std::string all, table;
  for (const auto& key : node::describe({.node_name = "aws"})) {
    auto dot = key.name.find('.');
    if (auto of = std::string(key.name.substr(0, dot)); of != table) all += fmt::format("[{}]\n", table = of);
    all += fmt::format("{} = {}\n", key.name.substr(dot + 1), key.value);
  }
  return {all,
          "",
          "[move]\nlanes = 17\n",
          "[cutover]\ndriver = \"hook\"\nhook = '''\n/bin/true'''\n",
          "node.name = \"a b\"\n",
          "[listen]\naddress = \"[2001:db8::1]:0\"\nsocket = \"\\u00e4\"\n",
          "[names]\ndomain = \"a..b\"\naddress = \"127.0.0.1\"\n",
          "listen = 1979-05-27T07:32:00Z\n[a.b.c]\nd = [1, {e = 0x7f}]\n"};
}

const Registration kRegistration({"config", run, seeds});

}  // namespace
}  // namespace transship::fuzz
