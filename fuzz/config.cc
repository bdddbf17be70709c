// The daemon's configuration, and its policy.
#include "node/config.h"
#include "fuzz/target.h"
#include "node/policy_file.h"

namespace transship::fuzz {
namespace {

void policy(std::string_view bytes) {
  auto set = node::parse_policy(bytes, "policy.toml");
  if (!set) {
    TS_CHECK(set.error().code() == Errc::kInvalidArgument && !set.error().message().empty());
    return;
  }
  for (const char* peer : {"azure", "nobody"}) {
    (void)node::describe(set->of(peer));
    Demands demands;
    demands.list = {{"allow.capabilities", "NET_ADMIN", "x"}, {"allow.writable_mounts", "/srv/a", "x"}};
    demands.ulimits = {{"nofile", 1U << 30}};
    demands.memory_bytes = 1U << 20;
    auto objections = plan::judge_policy(set->of(peer), "podman", demands);
    (void)plan::objections_remedy(objections, set->file, "aws");
  }
}

void run(std::string_view bytes) {
  policy(bytes);
  auto config = node::parse_config(bytes, "transshipd.toml");
  if (!config) {
    TS_CHECK(config.error().code() == Errc::kInvalidArgument && !config.error().message().empty());
    return;
  }
  TS_CHECK(config->lanes >= 1 && config->lanes <= 16 && config->state_dir.starts_with('/'));
  TS_CHECK(!node::describe(*config).empty());
}

// As `--check-config` prints it.
std::string policy_text(const plan::Policy& policy, const std::string& prefix) {
  std::string all, table;
  for (const auto& key : node::describe(policy)) {
    auto dot = key.name.find('.');
    if (auto of = std::string(key.name.substr(0, dot)); of != table) all += fmt::format("[{}{}]\n", prefix, table = of);
    all += fmt::format("{} = {}\n", key.name.substr(dot + 1), key.value);
  }
  return all;
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
          policy_text({.capabilities = {"NET_*"}, .writable_mounts = {"/srv"}, .memory_mib = 5}, ""),
          policy_text({.privileged = true, .cpus = 2}, "peer.azure."),
          "[limits]\nulimits = [\"nofile=unlimited\", \"x=\"]\n",
          "[peer.a.b]\n[peer]\nazure = 7\n",
          "listen = 1979-05-27T07:32:00Z\n[a.b.c]\nd = [1, {e = 0x7f}]\n"};
}

const Registration kRegistration({"config", run, seeds});

}  // namespace
}  // namespace transship::fuzz
