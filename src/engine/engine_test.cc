// On answers recorded from Podman 5.4.2 (testdata): `limits` was created and never ran, `running` ran under runc with a
// secret in its environment, for which `podman generate spec` fails.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "base/text.h"
#include "engine/host_ports.h"
#include "engine/podman_api.h"
#include "engine/podman_conflicts.h"
#include "engine/podman_spec.h"
#include "engine/podman_spec_parts.h"
#include "engine/runc_bundle.h"
#include "sys/file.h"

namespace transship::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

Json recorded(const std::string& name) {
  auto text = sys::read_file(std::string(TS_SOURCE_DIR) + "/src/engine/testdata/" + name);
  auto json = text ? parse_json(*text, name) : Result<Json>(std::unexpected(std::move(text).error()));
  EXPECT_TRUE(json) << name << ": " << json.error().message();
  return json ? *json : Json();
}

PodmanAnswers limits() {
  PodmanAnswers a;
  a.inspect = recorded("limits-inspect.json");
  a.generated = recorded("limits-generated.json");
  a.image = recorded("image.json");
  a.networks = {recorded("net1.json"), recorded("net2.json")};
  return a;
}

PodmanAnswers running() {
  PodmanAnswers a;
  a.inspect = recorded("running-inspect.json");
  a.oci = recorded("running-oci.json");
  a.image = recorded("image.json");
  a.networks = {recorded("net1.json")};
  return a;
}

std::vector<std::string> checks(const std::vector<Conflict>& rows) {
  std::vector<std::string> names;
  for (const auto& r : rows) names.push_back(r.check);
  return names;
}

TEST(Json, NeverThrowsOnWhatOthersWrote) {
  EXPECT_EQ(parse_json("{\"a\":", "podman").error().code(), Errc::kPeerProtocol);
  EXPECT_EQ(parse_json("\xff\xfe", "podman").error().code(), Errc::kPeerProtocol);
  EXPECT_EQ(parse_json(std::string(100'000, '['), "podman").error().code(), Errc::kPeerProtocol);
  auto deep = std::string(70, '[') + std::string(70, ']');
  EXPECT_THAT(parse_json(deep, "podman").error().message(), HasSubstr("nested"));
  Json odd = {{"text", 7}, {"list", {"a", 1, "b"}}};
  EXPECT_EQ(text_at(odd, {"text"}), "");
  EXPECT_EQ(text_at(odd, {"text", "deeper"}), "");
  EXPECT_EQ(int_at(odd, {"list"}), 0);
  EXPECT_THAT(texts_at(odd, {"list"}), ElementsAre("a", "b"));
}

TEST(Api, ErrorsQuotePodman) {
  auto text = write_json(recorded("error.json"));
  auto error = api_error({404, text}, "inspect container nosuch").error();
  EXPECT_EQ(error.code(), Errc::kNotFound);
  EXPECT_THAT(error.message(),
              HasSubstr("inspect container nosuch: podman says: no container with name or ID \"nosuch\""));
  // One that went while Podman looked at it.
  EXPECT_EQ(api_error({500, R"({"cause":"no such container","message":"gone"})"}, "x").error().code(), Errc::kNotFound);
  EXPECT_EQ(api_error({500, R"({"cause":"disk","message":"full"})"}, "x").error().code(), Errc::kUnavailable);
  EXPECT_THAT(api_error({500, "<html>"}, "x").error().message(), HasSubstr("status 500"));
  EXPECT_EQ(url_escape("a/b:c d"), "a%2Fb%3Ac%20d");
}

TEST(PodmanContainer, ReadsWhatAMoveNeeds) {
  auto c = container_from(running());
  ASSERT_TRUE(c) << c.error().message();
  EXPECT_EQ(c->name, "running");
  EXPECT_EQ(c->state, "running");
  EXPECT_GT(c->pid, 0);
  EXPECT_EQ(c->runtime, "runc");
  EXPECT_EQ(c->rootfs_kind, "overlay");
  EXPECT_THAT(c->upper_dir, HasSubstr("/overlay/"));
  EXPECT_THAT(c->bundle, HasSubstr(c->id + "/userdata"));
  EXPECT_EQ(c->restart_policy, "always");
  ASSERT_EQ(c->addresses.size(), 1U);
  EXPECT_EQ(c->addresses[0].ip, "10.77.0.20");
  EXPECT_EQ(c->addresses[0].prefix, 24U);
  EXPECT_EQ(c->addresses[0].interface, "eth0");
  EXPECT_EQ(c->addresses[0].mac.size(), 17U);
  EXPECT_EQ(c->addresses[0].gateway, "10.77.0.1");
  ASSERT_EQ(c->host_ports.size(), 1U);
  EXPECT_EQ(c->host_ports[0].host_port, 16379);
  EXPECT_THAT(c->managed_files, UnorderedElementsAre("/dev/shm", "/run/.containerenv", "/etc/hostname",
                                                     "/etc/resolv.conf", "/etc/hosts"));
  EXPECT_THAT(c->image_layers, ::testing::SizeIs(1));
  EXPECT_EQ(container_from({}).error().code(), Errc::kPeerProtocol);
}

TEST(PodmanSpec, CarriesLimitsAndDevices) {
  auto a = limits();
  auto c = container_from(a);
  ASSERT_TRUE(c);
  auto body = make_spec(*c, a).create;
  EXPECT_EQ(int_at(body, {"resource_limits", "memory", "limit"}), 256 << 20);
  EXPECT_EQ(int_at(body, {"resource_limits", "memory", "swap"}), 512 << 20);
  EXPECT_EQ(int_at(body, {"resource_limits", "cpu", "quota"}), 150'000);
  EXPECT_EQ(text_at(body, {"resource_limits", "cpu", "cpus"}), "0");
  EXPECT_EQ(int_at(body, {"resource_limits", "pids", "limit"}), 100);
  EXPECT_FALSE(body["resource_limits"].contains("devices"));  // they would double with every move
  EXPECT_EQ(text_at(body["devices"][0], {"path"}), "/dev/null:/dev/mynull:rw");
  EXPECT_EQ(int_at(body, {"stop_signal"}), 37);
  EXPECT_EQ(int_at(body, {"log_configuration", "size"}), 10'000'000);
  EXPECT_FALSE(body["log_configuration"].contains("path"));
  EXPECT_EQ(int_at(body, {"healthconfig", "Interval"}), 33'000'000'000);
  EXPECT_EQ(int_at(body, {"health_check_on_failure_action"}), 2);
  EXPECT_EQ(body["expose"], Json({{"1234", "tcp"}}));
  EXPECT_EQ(text_at(body, {"restart_policy"}), "no");
  EXPECT_EQ(text_at(body, {"group_entry"}), "x:*:99:");
  EXPECT_EQ(text_at(body, {"Networks", "net1", "interface_name"}), "eth7");
  EXPECT_THAT(texts_at(body, {"Networks", "net2", "static_ips"}), UnorderedElementsAre("10.78.0.9", "fd00:78::9"));
  EXPECT_THAT(texts_at(body, {"Networks", "net1", "aliases"}), ElementsAre("fatty"));  // not the old short id
  EXPECT_EQ(text_at(body["secrets"][0], {"Source"}), "sec1");
  EXPECT_TRUE(bool_at(body, {"read_write_tmpfs"}));
}

TEST(PodmanSpec, WithoutItsAddressesItKeepsItsNetworks) {
  auto a = limits();
  auto c = container_from(a);
  ASSERT_TRUE(c);
  auto spec = make_spec(*c, a);
  auto before = spec.create;
  forget_addresses(spec);
  for (const char* network : {"net1", "net2"}) {
    EXPECT_THAT(texts_at(spec.create, {"Networks", network, "static_ips"}), IsEmpty());
    EXPECT_EQ(text_at(spec.create, {"Networks", network, "static_mac"}), "");
  }
  EXPECT_EQ(text_at(spec.create, {"Networks", "net1", "interface_name"}), "eth7");
  EXPECT_THAT(texts_at(spec.create, {"Networks", "net1", "aliases"}), ElementsAre("fatty"));
  before.erase("Networks");
  spec.create.erase("Networks");
  EXPECT_EQ(spec.create, before) << "nothing else changes";
}

TEST(PodmanSpec, WorksWithoutGenerateSpec) {
  auto a = running();
  auto c = container_from(a);
  ASSERT_TRUE(c);
  auto spec = make_spec(*c, a);
  const auto& body = spec.create;
  EXPECT_EQ(body["secret_env"], Json({{"SEC", "sec1"}}));
  EXPECT_FALSE(body["env"].contains("SEC"));
  EXPECT_EQ(text_at(body, {"env", "X"}), "1");
  EXPECT_THAT(write_spec(spec), ::testing::Not(HasSubstr("s3cret")));
  EXPECT_THAT(spec.secrets, ElementsAre("sec1"));
  EXPECT_EQ(text_at(body, {"seccomp_profile_path"}), "unconfined");
  EXPECT_THAT(texts_at(body, {"unmask"}), ElementsAre("/proc/acpi"));
  EXPECT_THAT(texts_at(body, {"mask"}), ElementsAre("/proc/version"));
  EXPECT_EQ(text_at(body["mounts"][0], {"destination"}), "/scratch");
  EXPECT_EQ(int_at(body["portmappings"][0], {"host_port"}), 16379);
  EXPECT_THAT(spec.image_refs[0], HasSubstr("localhost/redis@sha256:"));
  EXPECT_THAT(spec.blocks, IsEmpty());
}

TEST(PodmanSpec, SaysWhatCannotBeMadeElsewhere) {
  auto a = limits();
  auto c = container_from(a);
  ASSERT_TRUE(c);
  EXPECT_THAT(checks(make_spec(*c, a).blocks), IsEmpty());
  c->mounts.push_back({.type = "image", .source = "x", .destination = "/x", .volume = ""});
  a.volumes = {Json{{"Name", "nfs"}, {"Driver", "local"}, {"Options", {{"type", "nfs"}}}}};
  c->pod = std::string(64, 'a');
  c->rootfs_kind = "vfs";
  a.inspect["HostConfig"]["PidMode"] = "host";
  a.inspect["HostConfig"]["UsernsMode"] = "private";
  a.inspect["Dependencies"] = {std::string(64, 'b')};
  a.inspect["Config"]["Labels"] = {{"PODMAN_SYSTEMD_UNIT", "x.service"}};
  EXPECT_THAT(checks(make_spec(*c, a).blocks), UnorderedElementsAre("storage-driver", "pod", "dependency", "namespace",
                                                                    "namespace", "mounts", "volumes", "systemd-unit"));
}

TEST(PodmanSpec, TravelsAndIsCheckedOnArrival) {
  auto a = running();
  auto spec = make_spec(*container_from(a), a);
  spec.blocks.push_back({"pod", "found", "remedy"});
  auto back = read_spec(write_spec(spec));
  ASSERT_TRUE(back) << back.error().message();
  EXPECT_EQ(back->create, spec.create);
  EXPECT_EQ(back->image_refs, spec.image_refs);
  EXPECT_EQ(back->blocks[0].remedy, "remedy");
  for (const char* wrong :
       {"", "[]", R"({"format":2,"create":{}})", R"({"format":1,"create":[]})",
        R"({"format":1,"create":{},"blocks":[["a","b"]]})", R"({"format":1,"create":{},"blocks":[["a","b",3]]})"})
    EXPECT_EQ(read_spec(wrong).error().code(), Errc::kPeerProtocol) << wrong;
  EXPECT_EQ(read_spec(std::string(5U << 20, ' ')).error().code(), Errc::kPeerProtocol);
}

TEST(PodmanSpec, Texts) {
  EXPECT_EQ(signal_number("SIGTERM"), 15);
  EXPECT_EQ(signal_number("INT"), 2);
  EXPECT_EQ(signal_number("SIGRTMIN+3"), 37);
  EXPECT_EQ(signal_number("SIGRTMIN"), 34);
  EXPECT_EQ(signal_number("SIGNOTHING"), 0);
  EXPECT_EQ(signal_number(""), 0);
  EXPECT_EQ(parse_human_size("10MB"), 10'000'000);
  EXPECT_EQ(parse_human_size("1.234kB"), 1234);
  EXPECT_EQ(parse_human_size("0B"), 0);
  EXPECT_EQ(parse_human_size("much"), 0);
  EXPECT_EQ(parse_restart_policy("on-failure:3")->retries, 3U);
  EXPECT_EQ(parse_restart_policy("always")->name, "always");
  EXPECT_FALSE(parse_restart_policy("sometimes"));
  EXPECT_FALSE(parse_restart_policy("on-failure:x"));
}

TEST(HostPorts, ReadsProcNet) {
  const std::string tcp =
      "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
      "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1\n"
      "   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1\n"
      "   2: 0100007F:8235 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 3 1\n";
  auto found = parse_proc_net(tcp, "tcp");
  ASSERT_TRUE(found);
  ASSERT_EQ(found->size(), 2U);  // the connection is no listener
  EXPECT_EQ((*found)[0].ip, "127.0.0.1");
  EXPECT_EQ((*found)[0].port, 8080);
  EXPECT_EQ((*found)[1].ip, "");
  auto six = parse_proc_net("head\n 0: 00000000000000000000000001000000:0050 0:0 0A x\n", "tcp");
  ASSERT_TRUE(six);
  EXPECT_EQ((*six)[0].ip, "::1");
  EXPECT_FALSE(parse_proc_net("head\n 0: ZZ:0050 0:0 0A x\n", "tcp"));
  EXPECT_TRUE(overlaps({"", 8080, 80, "tcp"}, (*found)[0]));
  EXPECT_FALSE(overlaps({"10.0.0.1", 8080, 80, "tcp"}, (*found)[0]));
  EXPECT_FALSE(overlaps({"", 8080, 80, "udp"}, (*found)[0]));
  EXPECT_TRUE(overlaps({"10.0.0.1", 22, 80, "tcp"}, (*found)[1]));
}

TEST(PodmanConflicts, OnTheHostItRunsOn) {
  auto a = running();
  auto c = container_from(a);
  ASSERT_TRUE(c);
  auto spec = make_spec(*c, a);
  PodmanHost host;
  host.info = recorded("info.json");
  host.containers = recorded("containers.json");
  host.networks = a.networks;
  host.secrets = {"sec1"};
  EXPECT_THAT(checks(find_conflicts(*c, spec, host)), UnorderedElementsAre("name", "host-port", "address"));
  host.containers = Json::array();
  host.networks[0]["containers"] = Json::object();
  EXPECT_THAT(find_conflicts(*c, spec, host), IsEmpty());
  host.networks[0]["subnets"][0]["subnet"] = "10.99.0.0/24";
  host.secrets.clear();
  host.listeners = {{"tcp", "", 16379}};
  host.missing_paths = {"/etc/profile.json"};
  host.info["store"]["graphDriverName"] = "vfs";
  auto rows = find_conflicts(*c, spec, host);
  EXPECT_THAT(checks(rows), UnorderedElementsAre("storage-driver", "host-port", "network", "secret", "file"));
  EXPECT_TRUE(std::ranges::none_of(rows, [](const Conflict& r) { return r.found.empty() || r.remedy.empty(); }));
  host.networks.clear();
  EXPECT_THAT(checks(find_conflicts(*c, spec, host)), ::testing::Contains("network"));
}

TEST(PodmanConflicts, ANewAddressNeedsTheNetworkOnly) {
  auto a = running();
  auto c = container_from(a);
  ASSERT_TRUE(c);
  c->new_address = true;
  auto spec = make_spec(*c, a);
  PodmanHost host;
  host.info = recorded("info.json");
  host.networks = a.networks;  // in which another container has it, and the subnet is another
  host.networks[0]["subnets"][0]["subnet"] = "10.99.0.0/24";
  host.secrets = {"sec1"};
  EXPECT_THAT(find_conflicts(*c, spec, host), IsEmpty());
  host.networks.clear();
  EXPECT_THAT(checks(find_conflicts(*c, spec, host)), ::testing::Contains("network"));
}

TEST(PodmanConflicts, AnAddressThatAStoppedContainerWasGiven) {
  auto a = running();
  auto c = container_from(a);
  ASSERT_TRUE(c);
  ASSERT_FALSE(c->addresses.empty());
  auto spec = make_spec(*c, a);
  PodmanHost host;
  host.info = recorded("info.json");
  host.networks = a.networks;
  host.networks[0]["containers"] = Json::object();
  host.secrets = {"sec1"};
  auto& address = c->addresses.front();
  auto fixed = fixed_addresses(Json{{"Networks", {{address.network, {{"static_ips", {address.ip}}}}, {"x", Json()}}}});
  ASSERT_EQ(fixed.size(), 1U);
  fixed[0].container = "sleeper";
  fixed[0].state = "created";
  host.fixed = fixed;
  auto rows = find_conflicts(*c, spec, host);
  EXPECT_THAT(checks(rows), UnorderedElementsAre("address"));
  EXPECT_THAT(rows.front().found, ::testing::HasSubstr("sleeper of this host (created) was given " + address.ip));
  EXPECT_THAT(rows.front().remedy, ::testing::HasSubstr("podman rm sleeper"));
  host.fixed[0].network = "another";
  EXPECT_THAT(find_conflicts(*c, spec, host), IsEmpty());
  for (const auto& odd :
       {Json(), Json::array(), Json{{"Networks", 1}}, Json{{"Networks", {{"x", {{"static_ips", 1}}}}}}})
    EXPECT_THAT(fixed_addresses(odd), IsEmpty());
}

TEST(PodmanConflicts, Subnets) {
  EXPECT_TRUE(subnet_contains("10.77.0.0/24", "10.77.0.9"));
  EXPECT_FALSE(subnet_contains("10.77.0.0/24", "10.77.1.9"));
  EXPECT_TRUE(subnet_contains("10.77.0.0/23", "10.77.1.9"));
  EXPECT_TRUE(subnet_contains("fd00:78::/64", "fd00:78::9"));
  EXPECT_FALSE(subnet_contains("fd00:78::/64", "10.77.0.9"));
  EXPECT_FALSE(subnet_contains("10.77.0.0/40", "10.77.0.9"));
  EXPECT_FALSE(subnet_contains("rubbish", "10.77.0.9"));
}

class BundleTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(sys::make_dirs(old_ + "/rootfs"));
    ASSERT_TRUE(sys::make_dirs(old_ + "/etc"));
    ASSERT_TRUE(sys::write_file_atomic(old_ + "/etc/hosts", std::string("a\0b", 3), 0640));
    ASSERT_TRUE(sys::write_file_atomic(old_ + "/rootfs/data", "not this way", 0640));
    Json config = {{"root", {{"path", "rootfs"}}},
                   {"process", {{"terminal", false}}},
                   {"mounts",
                    {{{"destination", "/proc"}, {"type", "proc"}, {"source", "proc"}},
                     {{"destination", "/etc/hosts"},
                      {"type", "bind"},
                      {"source", old_ + "/etc/hosts"},
                      {"options", {"bind", "ro"}}}}},
                   {"linux", {{"namespaces", {{{"type", "network"}, {"path", "/run/netns/x"}}}}}}};
    save(config);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  void save(const Json& config) {
    ASSERT_TRUE(sys::write_file_atomic(old_ + "/config.json", write_json(config), 0600));
  }
  const std::string dir_ = ::testing::TempDir() + "bundle-" + random_hex(4);
  const std::string old_ = dir_ + "/old";
};

TEST_F(BundleTest, TravelsWithItsSmallFiles) {
  auto bundle = read_bundle(old_, old_ + "/rootfs");
  ASSERT_TRUE(bundle) << bundle.error().message();
  EXPECT_THAT(bundle->blocks, IsEmpty());  // the bind mount's source travels
  EXPECT_EQ(bundle_network(bundle->config), "/run/netns/x");
  auto arrived = read_bundle_spec(write_bundle_spec(*bundle));
  ASSERT_TRUE(arrived) << arrived.error().message();
  auto to = dir_ + "/new";
  ASSERT_TRUE(write_bundle(*arrived, to));
  EXPECT_EQ(*sys::read_file(to + "/etc/hosts"), std::string("a\0b", 3));
  EXPECT_EQ(std::filesystem::status(to + "/etc/hosts").permissions(), static_cast<std::filesystem::perms>(0640));
  EXPECT_TRUE(std::filesystem::is_empty(to + "/rootfs"));
  auto config = parse_json(*sys::read_file(to + "/config.json"), "test");
  EXPECT_EQ(text_at((*config)["mounts"][1], {"source"}), to + "/etc/hosts");
  EXPECT_EQ(write_bundle(*arrived, to).error().code(), Errc::kAlreadyExists);
  EXPECT_TRUE(std::filesystem::exists(to + "/config.json"));  // not ours to remove
}

TEST_F(BundleTest, SaysWhichMoveMadeIt) {
  auto to = dir_ + "/marked";
  ASSERT_TRUE(write_bundle(*read_bundle(old_, old_ + "/rootfs"), to, "0123456789"));
  EXPECT_EQ(*sys::read_file(fmt::format("{}/{}", to, kArrivalFile)), "0123456789");
  auto on_its_way = read_bundle(to, to + "/rootfs");
  ASSERT_TRUE(on_its_way);
  for (const auto& file : on_its_way->files) EXPECT_NE(file.path, kArrivalFile);
}

TEST_F(BundleTest, SaysWhatCannotTravel) {
  ASSERT_TRUE(sys::write_file_atomic(old_ + "/big", std::string(300U << 10, 'x'), 0600));
  save({{"root", {{"path", "rootfs"}}},
        {"process", {{"terminal", true}}},
        {"mounts", {{{"destination", "/srv"}, {"type", "none"}, {"source", "/srv"}, {"options", {"rbind"}}}}}});
  auto bundle = read_bundle(old_, old_ + "/rootfs");
  ASSERT_TRUE(bundle);
  EXPECT_THAT(checks(bundle->blocks), UnorderedElementsAre("file", "terminal"));
  EXPECT_EQ(bundle_network(bundle->config), "host");
}

TEST_F(BundleTest, RefusesPathsThatLeaveIt) {
  Bundle bundle;
  bundle.directory = "/b";
  bundle.config = {{"root", {{"path", "rootfs"}}}};
  for (const char* path : {"../x", "/etc/passwd", "a/../../x", "rootfs/x", "config.json", "", "./x"}) {
    bundle.files = {{path, 0644, "x"}};
    EXPECT_EQ(read_bundle_spec(write_bundle_spec(bundle)).error().code(), Errc::kPeerProtocol) << path;
  }
  bundle.files = {{"ok", 0644, "x"}};
  EXPECT_TRUE(read_bundle_spec(write_bundle_spec(bundle)));
}

}  // namespace
}  // namespace transship::engine
