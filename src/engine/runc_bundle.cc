#include "engine/runc_bundle.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "base/fd.h"
#include "base/text.h"
#include "sys/file.h"

namespace transship::engine {
namespace {

namespace fs = std::filesystem;
constexpr size_t kMaxFiles = 64;
constexpr size_t kMaxFile = 256U << 10;
constexpr size_t kMaxTotal = 1U << 20;
constexpr size_t kMaxSpec = 8U << 20;

Result<std::string> unhex(std::string_view text) {
  auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; };
  std::string out;
  for (size_t n = 0; n + 1 < text.size(); n += 2) {
    int high = digit(text[n]);
    int low = digit(text[n + 1]);
    if (high < 0 || low < 0) return fail(Errc::kPeerProtocol, "a file of the bundle is not written in hex");
    out += static_cast<char>(high * 16 + low);
  }
  return out;
}

// Relative, no "..", not what we write ourselves.
bool is_safe_path(const std::string& text) {
  fs::path path(text);
  if (text.empty() || text.size() > 512 || path.is_absolute() || text.contains('\0')) return false;
  if (std::ranges::any_of(path, [](const fs::path& part) { return part == ".." || part == "." || part.empty(); }))
    return false;
  return *path.begin() != "config.json" && *path.begin() != "rootfs";
}

Result<bool> add_file(Bundle& bundle, const fs::directory_entry& entry, size_t& total) {
  std::error_code error;
  auto size = entry.file_size(error);
  if (error || size > kMaxFile || total + size > kMaxTotal || bundle.files.size() >= kMaxFiles) return false;
  BundleFile file;
  file.path = fs::path(entry.path()).lexically_relative(bundle.directory);
  if (!is_safe_path(file.path)) return false;
  file.mode = static_cast<unsigned>(entry.status(error).permissions()) & 07777U;
  TS_TRY_ASSIGN(file.content, sys::read_file(entry.path(), kMaxFile));
  total += file.content.size();
  bundle.files.push_back(std::move(file));
  return true;
}

Result<> collect_files(Bundle& bundle, const std::string& rootfs) {
  std::error_code error;
  size_t total = 0;
  fs::recursive_directory_iterator it(bundle.directory, error);
  for (; !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    if (it->path() == rootfs || it->path().lexically_relative(bundle.directory) == "rootfs") {
      it.disable_recursion_pending();
      continue;
    }
    if (!it->is_regular_file(error) || it->is_symlink(error)) continue;
    auto path = it->path().lexically_relative(bundle.directory);
    if (path == "config.json" || path == kArrivalFile) continue;
    TS_TRY_ASSIGN(bool added, add_file(bundle, *it, total));
    if (added) continue;
    bundle.blocks.push_back({"file", fmt::format("{} is too much to travel with the bundle", it->path().string()),
                             "at most 64 files of 256 KiB beside rootfs, 1 MiB in all: keep data inside rootfs"});
    return {};
  }
  if (error) return fail_errno(error.value(), "read the bundle {}", bundle.directory);
  return {};
}

void find_blocks(Bundle& b) {
  if (bool_at(b.config, {"process", "terminal"}))
    b.blocks.push_back({"terminal", "it has a terminal, which ends in the program that started it",
                        "set process.terminal to false in config.json"});
}

}  // namespace

std::string bundle_network(const Json& config) {
  const Json& all = at(config, {"linux", "namespaces"});
  for (const auto& n : all.is_array() ? all : Json::array()) {
    if (text_at(n, {"type"}) != "network") continue;
    auto path = text_at(n, {"path"});
    return path.empty() ? "private" : path;
  }
  return "host";
}

std::vector<Mount> bundle_volumes(const Bundle& bundle) {
  std::vector<Mount> mounts;
  const Json& all = at(bundle.config, {"mounts"});
  for (const auto& m : all.is_array() ? all : Json::array()) {
    auto options = texts_at(m, {"options"});
    auto has = [&options](std::string_view o) { return std::ranges::find(options, o) != options.end(); };
    if (text_at(m, {"type"}) != "bind" && !has("bind") && !has("rbind")) continue;
    auto source = (fs::path(bundle.directory) / text_at(m, {"source"})).lexically_normal();
    auto relative = source.lexically_relative(bundle.directory).string();
    if (!std::ranges::contains(bundle.files, relative, &BundleFile::path))
      mounts.push_back({"bind", source, text_at(m, {"destination"}), "", !has("ro")});
  }
  return mounts;
}

Result<Bundle> read_bundle(const std::string& directory, const std::string& rootfs) {
  Bundle b;
  b.directory = directory;
  TS_TRY_ASSIGN(std::string text, sys::read_file(directory + "/config.json", kMaxTotal));
  TS_TRY_ASSIGN(b.config, parse_json(text, directory + "/config.json"));
  TS_TRY(collect_files(b, rootfs));
  find_blocks(b);
  return b;
}

Result<> write_bundle(const Bundle& bundle, const std::string& directory, const std::string& arrival) {
  TS_TRY(sys::make_dirs(fs::path(directory).parent_path()));
  if (::mkdir(directory.c_str(), 0700) != 0) return fail_errno(errno, "make the bundle {}", directory);
  auto fill = [&]() -> Result<> {
    if (!arrival.empty()) TS_TRY(sys::write_file_atomic(fmt::format("{}/{}", directory, kArrivalFile), arrival));
    Json config = bundle.config;
    config["root"]["path"] = "rootfs";
    if (config.contains("mounts") && config["mounts"].is_array())
      for (auto& m : config["mounts"])
        if (auto source = text_at(m, {"source"}); source.starts_with(bundle.directory + "/"))
          m["source"] = directory + source.substr(bundle.directory.size());
    TS_TRY(sys::write_file_atomic(directory + "/config.json", write_json(config), 0600));
    for (const auto& f : bundle.files) {
      auto path = fs::path(directory) / f.path;
      TS_TRY(sys::make_dirs(path.parent_path(), 0755));
      TS_TRY(sys::write_file_atomic(path, f.content, f.mode & 07777U));
    }
    return sys::make_dirs(directory + "/rootfs", 0755);
  };
  auto r = fill();
  if (!r) (void)sys::remove_tree(directory);
  return r;
}

std::string write_bundle_spec(const Bundle& bundle) {
  Json files = Json::array();
  for (const auto& f : bundle.files) files.push_back({{"path", f.path}, {"mode", f.mode}, {"hex", hex(f.content)}});
  Json blocks = Json::array();
  for (const auto& b : bundle.blocks) blocks.push_back({b.check, b.found, b.remedy});
  return write_json(
      {{"format", 1}, {"bundle", bundle.directory}, {"config", bundle.config}, {"files", files}, {"blocks", blocks}});
}

Result<Bundle> read_bundle_spec(const std::string& text) {
  if (text.size() > kMaxSpec)
    return fail(Errc::kPeerProtocol, "the bundle's spec is {} long, more than {}", format_bytes(text.size()),
                format_bytes(kMaxSpec));
  TS_TRY_ASSIGN(Json json, parse_json(text, "the source"));
  Bundle b;
  b.directory = text_at(json, {"bundle"});
  b.config = at(json, {"config"});
  const Json& files = at(json, {"files"});
  const Json& blocks = at(json, {"blocks"});
  bool formed = int_at(json, {"format"}) == 1 && at(b.config, {"root"}).is_object() && b.directory.starts_with('/') &&
                files.is_array() && files.size() <= kMaxFiles && blocks.is_array();
  if (!formed) return fail(Errc::kPeerProtocol, "the container's spec is not one of a runc bundle in format 1");
  for (const auto& f : files) {
    BundleFile file{text_at(f, {"path"}), static_cast<unsigned>(int_at(f, {"mode"})) & 0777U, {}};
    if (!is_safe_path(file.path))
      return fail(Errc::kPeerProtocol, "the bundle has a file with the path \"{}\"", file.path.substr(0, 100));
    TS_TRY_ASSIGN(file.content, unhex(text_at(f, {"hex"})));
    b.files.push_back(std::move(file));
  }
  for (const auto& row : blocks) {
    if (!row.is_array() || row.size() != 3 || !row[0].is_string() || !row[1].is_string() || !row[2].is_string())
      return fail(Errc::kPeerProtocol, "a row of \"blocks\" in the bundle's spec is not three texts");
    b.blocks.push_back({row[0], row[1], row[2]});
  }
  return b;
}

}  // namespace transship::engine
