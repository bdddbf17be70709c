#include "engine/oci_bundle.h"

#include <sys/stat.h>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "sys/file.h"

namespace transship::engine {
namespace {

using nlohmann::json;

constexpr size_t kMaxConfigBytes = 16U << 20;
constexpr int kMaxLinks = 255;  // as runc's own resolver

// The library throws when a value is not of the asked type: these return an empty one instead.
const json& child(const json& j, const char* key) {
  static const json kNothing;
  if (!j.is_object()) return kNothing;
  auto it = j.find(key);
  return it == j.end() ? kNothing : *it;
}
std::string text_of(const json& j, const char* key) {
  const auto& v = child(j, key);
  return v.is_string() ? v.get<std::string>() : std::string();
}
uint64_t number_of(const json& j, const char* key) {
  const auto& v = child(j, key);
  return v.is_number_unsigned() ? v.get<uint64_t>() : 0;
}
std::vector<std::string> texts_of(const json& j, const char* key) {
  std::vector<std::string> all;
  for (const auto& v : child(j, key)) {
    if (v.is_string()) all.push_back(v.get<std::string>());
  }
  return all;
}

void read_process(const json& process, OciBundle& b) {
  b.args = texts_of(process, "args");
  b.cwd = text_of(process, "cwd");
  b.uid = number_of(child(process, "user"), "uid");
  b.gid = number_of(child(process, "user"), "gid");
  b.terminal = child(process, "terminal").is_boolean() && child(process, "terminal").get<bool>();
  b.capabilities = texts_of(child(process, "capabilities"), "bounding");
  b.no_new_privileges = child(process, "noNewPrivileges").is_boolean() && child(process, "noNewPrivileges").get<bool>();
  b.apparmor_profile = text_of(process, "apparmorProfile");
  b.selinux_label = text_of(process, "selinuxLabel");
}

void read_linux(const json& section, OciBundle& b) {
  b.masked_paths = texts_of(section, "maskedPaths");
  b.readonly_paths = texts_of(section, "readonlyPaths");
  b.cgroups_path = text_of(section, "cgroupsPath");
  b.has_seccomp = child(section, "seccomp").is_object();
  for (const auto& n : child(section, "namespaces")) b.namespaces.push_back({text_of(n, "type"), text_of(n, "path")});
  for (const auto& d : child(section, "devices")) b.devices.push_back(text_of(d, "path"));
}

// "net" and "extRootNetNS" for "network": how runc and CRIU call the two kinds that can be handed over from outside.
struct ExternalNamespace {
  std::string_view oci;
  std::string_view criu;
  std::string_view key;
};
constexpr ExternalNamespace kExternal[] = {{"network", "net", "extRootNetNS"}, {"pid", "pid", "extRootPidNS"}};

Result<std::string> external_name(const ExternalNamespace& kind, const std::string& path) {
  struct stat st;
  if (::stat(path.c_str(), &st) < 0) return fail_errno(errno, "look at the {} namespace {}", kind.oci, path);
  return fmt::format("{}[{}]:{}", kind.criu, st.st_ino, kind.key);
}

}  // namespace

bool OciMount::is_bind() const {
  return type == "bind" || std::ranges::contains(options, "bind") || std::ranges::contains(options, "rbind");
}

const OciNamespace* OciBundle::find_namespace(std::string_view type) const {
  auto it = std::ranges::find(namespaces, type, &OciNamespace::type);
  return it == namespaces.end() ? nullptr : &*it;
}

bool OciBundle::has_own(std::string_view type) const {
  const auto* ns = find_namespace(type);
  return ns != nullptr && ns->path.empty();
}

Result<OciBundle> parse_oci_bundle(std::string_view config_json, const std::string& dir) {
  auto config = json::parse(config_json, nullptr, false);
  if (!config.is_object()) return fail(Errc::kCorrupt, "{}/config.json is not a JSON object", dir);
  OciBundle b;
  b.dir = dir;
  auto root = text_of(child(config, "root"), "path");
  if (root.empty()) return fail(Errc::kCorrupt, "{}/config.json names no root.path", dir);
  b.rootfs = (std::filesystem::path(dir) / root).lexically_normal().string();
  for (const auto& m : child(config, "mounts"))
    b.mounts.push_back({text_of(m, "destination"), text_of(m, "type"), text_of(m, "source"), texts_of(m, "options")});
  for (const auto& [key, value] : child(config, "annotations").items()) {
    if (value.is_string()) b.annotations[key] = value.get<std::string>();
  }
  read_process(child(config, "process"), b);
  read_linux(child(config, "linux"), b);
  return b;
}

Result<OciBundle> load_oci_bundle(const std::string& dir) {
  auto text = sys::read_file(dir + "/config.json", kMaxConfigBytes);
  if (!text) return std::unexpected(std::move(text).error().context("read the bundle"));
  return parse_oci_bundle(*text, dir);
}

std::string resolve_in_root(const std::string& rootfs, std::string_view path) {
  std::deque<std::string> todo;
  for (auto& part : split(path, '/')) todo.push_back(std::move(part));
  std::vector<std::string> done;
  int links = 0;
  while (!todo.empty()) {
    auto part = std::move(todo.front());
    todo.pop_front();
    if (part.empty() || part == ".") continue;
    if (part == "..") {
      if (!done.empty()) done.pop_back();
      continue;
    }
    done.push_back(part);
    std::error_code error;
    auto target = std::filesystem::read_symlink(rootfs + "/" + join(done, "/"), error);
    if (error || ++links > kMaxLinks) continue;
    done.pop_back();
    if (target.is_absolute()) done.clear();
    auto parts = split(target.string(), '/');
    todo.insert(todo.begin(), parts.begin(), parts.end());
  }
  return "/" + join(done, "/");
}

Result<criu::DumpOptions> dump_options(const OciBundle& bundle, pid_t pid) {
  criu::DumpOptions o;
  o.pid = pid;
  o.root = bundle.rootfs;
  auto add_mount = [&](std::string inside, std::string name) {
    std::pair entry{std::move(inside), std::move(name)};
    if (!std::ranges::contains(o.external_mounts, entry)) o.external_mounts.push_back(std::move(entry));
  };
  for (const auto& m : bundle.mounts) {
    if (!m.is_bind()) continue;
    auto inside = resolve_in_root(bundle.rootfs, m.destination);
    add_mount(inside, inside);
  }
  for (const auto& d : bundle.devices) add_mount(d, d);
  for (const auto& p : bundle.masked_paths) {
    std::error_code error;
    auto status = std::filesystem::status(fmt::format("/proc/{}/root{}", pid, p), error);
    if (!error && std::filesystem::exists(status) && !std::filesystem::is_directory(status)) add_mount(p, "/dev/null");
  }
  for (const auto& kind : kExternal) {
    const auto* ns = bundle.find_namespace(kind.oci);
    if (ns == nullptr || ns->path.empty()) continue;
    TS_TRY_ASSIGN(std::string name, external_name(kind, ns->path));
    o.externals.push_back(std::move(name));
  }
  return o;
}

Result<std::string> descriptors_json(pid_t pid) {
  json all = json::array();
  for (int fd = 0; fd < 3; ++fd) {
    std::error_code error;
    auto target = std::filesystem::read_symlink(fmt::format("/proc/{}/fd/{}", pid, fd), error);
    // A closed one is no pipe that could be handed over; runc only looks for those.
    all.push_back(error ? std::string("closed") : target.string());
    if (error && error.value() != ENOENT) return fail_errno(error.value(), "read descriptor {} of process {}", fd, pid);
  }
  return all.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace transship::engine
