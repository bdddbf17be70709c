// A bundle of a plain container: config.json as runtimes get it, and the bundle that a peer sends.
#include <filesystem>

#include "engine/bundle_demands.h"
#include "engine/oci_bundle.h"
#include "engine/runc_bundle.h"
#include "fuzz/box.h"
#include "fuzz/demands.h"
#include "fuzz/input.h"
#include "fuzz/target.h"
#include "sys/file.h"

namespace transship::fuzz {
namespace {

using namespace engine;

Box& box() {
  static Box one;
  return one;
}

void config(std::string_view bytes) {
  auto bundle = parse_oci_bundle(bytes, "/bundle");
  if (bundle) {
    TS_CHECK(bundle->rootfs.starts_with('/'));
    for (const auto& mount : bundle->mounts) {
      auto inside = resolve_in_root(box().inside(), mount.destination);
      TS_CHECK(inside.starts_with('/') && (inside + "/").find("/../") == std::string::npos, "{}", inside);
    }
    for (const char* type : {"network", "pid", "user"}) (void)bundle->has_own(type);
  }
  auto json = parse_json(bytes, "runc");
  if (!json) return;
  (void)bundle_network(*json);
  Bundle whole;
  whole.directory = "/bundle";
  whole.config = *json;
  (void)bundle_volumes(whole);
}

// Nothing of it leaves the place it is given.
void sent(std::string_view bytes) {
  auto bundle = read_bundle_spec(std::string(bytes));
  if (!bundle) return;
  auto again = read_bundle_spec(write_bundle_spec(*bundle));
  TS_CHECK(again && again->files.size() == bundle->files.size() && again->blocks.size() == bundle->blocks.size());
  check_demands(bundle_demands(*bundle, {}, [](const std::string& path) { return path == "/n"; }), "runc");
  auto into = box().inside() + "/bundle";
  auto written = write_bundle(*bundle, into);
  box().check();
  if (written)
    TS_CHECK(std::filesystem::exists(into + "/config.json") && std::filesystem::is_directory(into + "/rootfs"));
  else
    TS_CHECK(!std::filesystem::exists(into), "{}", written.error().message());
  if (written) (void)read_bundle(into, into + "/rootfs");
  box().clear();
}

void run(std::string_view bytes) {
  Input in(bytes);
  in.flag() ? sent(in.rest()) : config(in.rest());
}

std::vector<std::string> seeds() {
  constexpr std::string_view kConfig =
      R"({"ociVersion":"1.0.2","process":{"terminal":false,"user":{"uid":0,"gid":0},"args":["sh"],"cwd":"/"},)"
      R"("root":{"path":"rootfs"},"mounts":[{"destination":"/proc","type":"proc","source":"proc"},)"
      R"({"destination":"/x/../y","type":"bind","source":"data","options":["rbind","ro"]}],)"
      R"("annotations":{"a":"b","c":1},"linux":{"maskedPaths":["/proc/kcore"],"readonlyPaths":[],"cgroupsPath":"/c",)"
      R"("seccomp":{},"devices":[{"path":"/dev/fuse"}],"namespaces":[{"type":"pid"},{"type":"network","path":"/n"}]}})";
  Bundle bundle{.directory = "/bundle",
                .config = Json::parse(kConfig),
                .files = {{"data/one", 0640, "content"}, {"two", 0755, std::string("\0\xff", 2)}},
                .blocks = {{"mounts", "bind x", "no"}}};
  bundle.config["mounts"][1]["source"] = "/bundle/data";
  auto greedy = bundle;
  greedy.config["hooks"] = {{"prestart", {{{"path", "/bin/sh"}}}}};
  greedy.config["process"]["capabilities"] = {{"bounding", {"CAP_SYS_ADMIN", "CAP_KILL"}}};
  greedy.config["process"]["rlimits"] = {{{"type", "RLIMIT_CORE"}, {"hard", -1}, {"soft", 0}}};
  greedy.config["process"]["apparmorProfile"] = "unconfined";
  greedy.config["process"]["oomScoreAdj"] = -5;
  greedy.config["linux"]["devices"] = {{{"path", "/dev/fuse"}, {"type", "c"}, {"major", 10}, {"minor", 229}}};
  greedy.config["linux"]["resources"] = {{"devices", {{{"allow", true}, {"access", "rwm"}}}}, {"pids", {{"limit", 7}}}};
  greedy.config["linux"]["sysctl"] = {{"net.core.somaxconn", "1"}};
  greedy.config["linux"]["cgroupsPath"] = "user.slice:x:redis";
  greedy.config["linux"]["rootfsPropagation"] = "shared";
  greedy.config["mounts"].push_back({{"destination", "/e"}, {"type", "bind"}, {"source", "/etc"}, {"options", {"rw"}}});
  greedy.config["mounts"].push_back({{"destination", "/q"}, {"type", "sysfs"}, {"options", {"rshared"}}});
  auto outside = bundle;
  outside.files = {{"data/../../outside", 0600, "x"}, {"/outside", 0600, "x"}};
  auto clash = bundle;
  clash.files = {{"a", 0600, "x"}, {"a/b", 0600, "x"}};
  auto one = [](uint8_t kind, std::string_view bytes) { return Output().byte(kind).raw(bytes).bytes(); };
  return {one(0, kConfig),
          one(1, write_bundle_spec(bundle)),
          one(1, write_bundle_spec(greedy)),
          one(1, write_bundle_spec(outside)),
          one(1, write_bundle_spec(clash)),
          one(0, R"({"root":{"path":"../../x"},"mounts":{"a":[]},"linux":[1]})")};
}

const Registration kRegistration({"runtime_bundle", run, seeds});

}  // namespace
}  // namespace transship::fuzz
