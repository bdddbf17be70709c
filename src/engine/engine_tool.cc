// Calls one function of an engine and prints JSON: what the integration tests drive the real engines with.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/text.h"
#include "engine/engine.h"
#include "engine/json.h"
#include "sys/file.h"

namespace transship::engine {
namespace {

using Args = std::vector<std::string>;

Json to_json(const Container& c) {
  Json j = {{"engine", c.engine},
            {"id", c.id},
            {"name", c.name},
            {"state", c.state},
            {"pid", c.pid},
            {"bundle", c.bundle},
            {"runtime", c.runtime},
            {"rootfs", c.rootfs},
            {"upper_dir", c.upper_dir},
            {"rootfs_kind", c.rootfs_kind},
            {"image", c.image},
            {"image_id", c.image_id},
            {"image_digest", c.image_digest},
            {"image_layers", c.image_layers},
            {"image_bytes", c.image_bytes},
            {"managed_files", c.managed_files},
            {"network_mode", c.network_mode},
            {"restart_policy", c.restart_policy},
            {"auto_remove", c.auto_remove},
            {"terminal", c.terminal},
            {"privileged", c.privileged},
            {"pod", c.pod},
            {"memory_limit", c.memory_limit},
            {"cgroup_parent", c.cgroup_parent},
            {"spec", c.spec}};
  j["addresses"] = Json::array();
  for (const auto& a : c.addresses)
    j["addresses"].push_back({{"network", a.network},
                              {"ip", a.ip},
                              {"prefix", a.prefix},
                              {"mac", a.mac},
                              {"interface", a.interface},
                              {"gateway", a.gateway}});
  j["host_ports"] = Json::array();
  for (const auto& p : c.host_ports)
    j["host_ports"].push_back({{"host_ip", p.host_ip},
                               {"host_port", p.host_port},
                               {"container_port", p.container_port},
                               {"protocol", p.protocol}});
  j["mounts"] = Json::array();
  for (const auto& m : c.mounts)
    j["mounts"].push_back({{"type", m.type},
                           {"source", m.source},
                           {"destination", m.destination},
                           {"volume", m.volume},
                           {"writable", m.writable}});
  return j;
}

// Only what stage, conflicts, pull and finish look at.
Result<Container> read_container(const std::string& path) {
  TS_TRY_ASSIGN(std::string text, sys::read_file(path));
  TS_TRY_ASSIGN(Json j, parse_json(text, path));
  Container c;
  c.engine = text_at(j, {"engine"});
  c.id = text_at(j, {"id"});
  c.name = text_at(j, {"name"});
  c.image = text_at(j, {"image"});
  c.image_id = text_at(j, {"image_id"});
  c.image_digest = text_at(j, {"image_digest"});
  c.restart_policy = text_at(j, {"restart_policy"});
  c.network_mode = text_at(j, {"network_mode"});
  c.rootfs_kind = text_at(j, {"rootfs_kind"});
  c.privileged = bool_at(j, {"privileged"});
  c.spec = text_at(j, {"spec"});
  for (const auto& a : j["addresses"])
    c.addresses.push_back({text_at(a, {"network"}), text_at(a, {"ip"}), static_cast<unsigned>(int_at(a, {"prefix"})),
                           text_at(a, {"mac"}), text_at(a, {"interface"}), text_at(a, {"gateway"})});
  for (const auto& m : j["mounts"])
    c.mounts.push_back({.type = text_at(m, {"type"}),
                        .source = text_at(m, {"source"}),
                        .destination = text_at(m, {"destination"}),
                        .volume = text_at(m, {"volume"}),
                        .writable = bool_at(m, {"writable"})});
  for (const auto& p : j["host_ports"])
    c.host_ports.push_back({text_at(p, {"host_ip"}), static_cast<uint16_t>(int_at(p, {"host_port"})),
                            static_cast<uint16_t>(int_at(p, {"container_port"})), text_at(p, {"protocol"})});
  return c;
}

Result<Json> destination_call(Engine& engine, const Args& args, Deadline deadline, const Cancel& cancel) {
  TS_TRY_ASSIGN(Container wanted, read_container(args[1]));
  if (args[0] == "conflicts") {
    TS_TRY_ASSIGN(auto rows, engine.conflicts(wanted));
    Json list = Json::array();
    for (const auto& r : rows) list.push_back({{"check", r.check}, {"found", r.found}, {"remedy", r.remedy}});
    return list;
  }
  if (args[0] == "has-image") {
    TS_TRY_ASSIGN(bool has, engine.has_image(wanted));
    return Json(has);
  }
  if (args[0] == "pull") {
    TS_TRY(engine.pull_image(wanted, [](const std::string&) { return true; }, deadline, cancel));
    return Json();
  }
  if (args[0] == "finish" && args.size() == 3) {
    TS_TRY(engine.finish(args[2], wanted));
    return Json();
  }
  TS_TRY_ASSIGN(Staged s, engine.stage(wanted, deadline, cancel));
  return Json({{"id", s.id}, {"upper_dir", s.upper_dir}, {"rootfs", s.rootfs}, {"rootfs_kind", s.rootfs_kind}});
}

Result<Json> call(Engine& engine, const Args& args, milliseconds time) {
  auto deadline = Deadline::in(time);
  TS_TRY_ASSIGN(Cancel cancel, Cancel::create());
  const auto& verb = args[0];
  Json none;
  if (verb == "version") {
    TS_TRY_ASSIGN(std::string v, engine.version());
    return Json(v);
  }
  if (verb == "list") {
    TS_TRY_ASSIGN(auto rows, engine.list(true));
    Json list = Json::array();
    for (const auto& r : rows)
      list.push_back({{"id", r.id}, {"name", r.name}, {"image", r.image}, {"state", r.state}, {"pid", r.pid}});
    return list;
  }
  if (args.size() < 2) return fail(Errc::kInvalidArgument, "{} needs an argument", verb);
  if (verb == "inspect") {
    TS_TRY_ASSIGN(Container c, engine.inspect(args[1]));
    return to_json(c);
  }
  if (verb == "hold") {
    TS_TRY_ASSIGN(std::string held, engine.hold_restarts(args[1]));
    return Json(held);
  }
  if (verb == "release" && args.size() == 3) {
    TS_TRY(engine.release_restarts(args[1], args[2]));
    return none;
  }
  if (verb == "forget") {
    TS_TRY(engine.forget(args[1], args.size() == 3 && args[2] == "keep", deadline));
    return none;
  }
  if (verb == "start") {
    TS_TRY(engine.start(args[1], deadline));
    return none;
  }
  if (verb == "discard") {
    TS_TRY(engine.discard(args[1], deadline));
    return none;
  }
  return destination_call(engine, args, deadline, cancel);
}

int fail_with(const Error& e) {
  Json j = {{"code", errc_name(e.code())}, {"message", e.message()}, {"remedy", e.remedy()}};
  std::fprintf(stderr, "%s\n", write_json(j).c_str());
  return 1;
}

int run(Args args) {
  std::map<std::string, std::string> options = {{"--deadline-ms", "30000"}};
  while (args.size() > 2 && args[0].starts_with("--")) {
    options[args[0]] = args[1];
    args.erase(args.begin(), args.begin() + 2);
  }
  if (args.size() < 2) {
    std::fprintf(stderr, "usage: engine-tool [--OPTION VALUE…] podman|runc VERB ARGUMENT…\n");
    return 2;
  }
  auto time = parse_u64(options["--deadline-ms"], "--deadline-ms");
  if (!time) return fail_with(time.error());
  auto set = [&options](const char* name, std::string& value) {
    if (options.contains(name)) value = options[name];
  };
  PodmanOptions podman;
  set("--socket", podman.socket);
  set("--program", podman.program);
  set("--run-dir", podman.run_dir);
  set("--runtime", podman.runtime);
  RuncOptions runc;
  set("--root", runc.root);
  set("--bundles-dir", runc.bundles_dir);
  set("--program", runc.program);
  set("--runtime", runc.runtime);
  auto engine = args[0] == "podman" ? make_podman_engine(podman) : make_runc_engine(runc);
  if (!engine) return fail_with(engine.error());
  args.erase(args.begin());
  auto result = call(**engine, args, milliseconds(static_cast<int64_t>(*time)));
  if (!result) return fail_with(result.error());
  std::printf("%s\n", write_json(*result).c_str());
  return 0;
}

}  // namespace
}  // namespace transship::engine

int main(int argc, char** argv) {
  transship::init_logging("debug");
  return transship::engine::run({argv + 1, argv + argc});
}
