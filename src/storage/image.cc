#include "storage/image.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>

#include "base/fd.h"
#include "base/text.h"
#include "sys/file.h"
#include "sys/process.h"

namespace transship::storage {
namespace {

using nlohmann::json;

constexpr size_t kMaxDocument = 16U << 20;  // manifest or configuration of an image

Result<std::string> bare_id(std::string_view id) {
  if (id.starts_with("sha256:")) id.remove_prefix(7);
  if (id.size() != 64 || id.find_first_not_of("0123456789abcdef") != std::string_view::npos)
    return fail(Errc::kInvalidArgument, "\"{}\" is not the id of an image", id.substr(0, 80));
  return std::string(id);
}

// "sha256:<64 hex>" -> the name of the blob's file: never anything with a path in it.
Result<std::string> blob_file(const std::string& digest) {
  if (!digest.starts_with("sha256:"))
    return fail(Errc::kCorrupt, "image manifest: digest \"{}\" is not sha256", digest.substr(0, 80));
  return bare_id(digest);
}

Result<std::string> run(std::vector<std::string> argv, Deadline deadline, const Cancel& cancel) {
  sys::Command c;
  c.argv = std::move(argv);
  c.deadline = deadline;
  c.max_output = 64U << 20;
  TS_TRY_ASSIGN(auto done, sys::run_ok(c, &cancel));
  return done.out;
}

Result<json> document(const std::string& path) {
  TS_TRY_ASSIGN(auto text, sys::read_file(path, kMaxDocument));
  auto parsed = json::parse(text, nullptr, false);
  if (parsed.is_discarded() || !parsed.is_object()) return fail(Errc::kCorrupt, "{} is not a JSON object", path);
  return parsed;
}

Result<std::vector<std::string>> texts(const json& list, std::string_view what) {
  if (!list.is_array()) return fail(Errc::kCorrupt, "{} is not a list", what);
  std::vector<std::string> out;
  for (const auto& item : list) {
    if (!item.is_string()) return fail(Errc::kCorrupt, "{} has an item that is not text", what);
    out.push_back(item.get<std::string>());
  }
  return out;
}

const json& at_path(const json& from, std::initializer_list<const char*> keys) {
  static const json kNothing;
  const json* here = &from;
  for (const char* key : keys) {
    if (!here->is_object() || !here->contains(key)) return kNothing;
    here = &(*here)[key];
  }
  return *here;
}

Result<ImageBlob> blob_of(const json& descriptor, std::string diff_id) {
  const auto& digest = at_path(descriptor, {"digest"});
  const auto& size = at_path(descriptor, {"size"});
  if (!digest.is_string() || !size.is_number_unsigned())
    return fail(Errc::kCorrupt, "image manifest: an entry without digest and size");
  TS_TRY_ASSIGN(auto file, blob_file(digest.get<std::string>()));
  return ImageBlob{std::move(file), std::move(diff_id), size.get<uint64_t>()};
}

Result<> read_layout(ExportedImage& image) {
  TS_TRY_ASSIGN(json manifest, document(image.directory + "/manifest.json"));
  TS_TRY_ASSIGN(ImageBlob config, blob_of(at_path(manifest, {"config"}), ""));
  if (config.file != image.image_id)
    return fail(Errc::kCorrupt, "export image {}: skopeo gave {}", image.image_id.substr(0, 12),
                config.file.substr(0, 12));
  TS_TRY_ASSIGN(json details, document(image.directory + "/" + config.file));
  TS_TRY_ASSIGN(image.diff_ids, texts(at_path(details, {"rootfs", "diff_ids"}), "the image's list of layers"));
  const auto& layers = at_path(manifest, {"layers"});
  if (!layers.is_array() || layers.size() != image.diff_ids.size())
    return fail(Errc::kCorrupt, "image manifest: its layers are not those of its configuration");
  for (size_t i = 0; i < layers.size(); ++i) {
    TS_TRY_ASSIGN(ImageBlob blob, blob_of(layers[i], image.diff_ids[i]));
    image.blobs.push_back(std::move(blob));
  }
  image.blobs.push_back(std::move(config));
  image.small_files = {"manifest.json", "version"};
  return {};
}

std::string in_store(const ImageStore& store, const std::string& reference, const std::string& image_id) {
  if (reference.empty() || reference.find('@') != std::string::npos)
    return "containers-storage:" + store.location + "@" + image_id;
  return "containers-storage:" + store.location + reference;
}

std::vector<std::string> podman(const ImageStore& store, std::vector<std::string> arguments) {
  auto argv = store.podman;
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  return argv;
}

// Layers travel as they are. One that is packed could be of any size when it is unpacked, whatever was reserved.
Result<> check_unpacked(const std::string& directory, const json& manifest) {
  using namespace std::string_view_literals;
  constexpr std::array kPacked = {"\x1f\x8b"sv, "\x28\xb5\x2f\xfd"sv, "BZh"sv, "\xfd\x37zXZ"sv};
  const auto& layers = at_path(manifest, {"layers"});
  for (const auto& layer : layers.is_array() ? layers : json::array()) {
    TS_TRY_ASSIGN(ImageBlob blob, blob_of(layer, ""));
    auto file = open_file(directory + "/" + blob.file, O_RDONLY | O_NOFOLLOW);
    if (!file) continue;  // one that is here already did not travel
    std::array<char, 6> start{};
    ssize_t n = retry_eintr([&] { return ::pread(file->get(), start.data(), start.size(), 0); });
    if (n < 0) return fail_errno(errno, "read layer {}", blob.file.substr(0, 12));
    std::string_view seen(start.data(), static_cast<size_t>(n));
    if (std::ranges::any_of(kPacked, [&](auto magic) { return seen.starts_with(magic); }))
      return fail(Errc::kPeerProtocol, "layer {} of the image came packed: refused", blob.file.substr(0, 12));
  }
  return {};
}

}  // namespace

std::vector<std::string> ExportedImage::files_needed(const std::vector<std::string>& present) const {
  std::set<std::string> there(present.begin(), present.end());
  std::vector<std::string> files = small_files;
  for (const auto& b : blobs) {
    bool needed = b.diff_id.empty() || !there.contains(b.diff_id);
    if (needed && std::ranges::find(files, b.file) == files.end()) files.push_back(b.file);
  }
  return files;
}

Result<ExportedImage> export_image(const ImageStore& store, const std::string& image_id, const std::string& directory,
                                   Deadline deadline, const Cancel& cancel) {
  ExportedImage image;
  image.directory = directory;
  TS_TRY_ASSIGN(image.image_id, bare_id(image_id));
  TS_TRY(sys::make_dirs(directory));
  std::vector<std::string> argv = {store.skopeo, "copy", "--quiet", in_store(store, "", image.image_id),
                                   "dir:" + directory};
  TS_TRY_CTX(run(std::move(argv), deadline, cancel), "export image " + image.image_id.substr(0, 12));
  TS_TRY(read_layout(image));
  return image;
}

Result<std::vector<std::string>> present_layers(const ImageStore& store, Deadline deadline, const Cancel& cancel) {
  TS_TRY_ASSIGN(auto listed, run(podman(store, {"images", "--all", "--quiet", "--no-trunc"}), deadline, cancel));
  std::set<std::string> ids;
  for (const auto& line : split(listed, '\n'))
    if (!trim(line).empty()) ids.insert(std::string(trim(line)));
  if (ids.empty()) return std::vector<std::string>{};
  std::vector<std::string> arguments = {"image", "inspect"};
  arguments.insert(arguments.end(), ids.begin(), ids.end());
  TS_TRY_ASSIGN(auto text, run(podman(store, std::move(arguments)), deadline, cancel));
  auto images = json::parse(text, nullptr, false);
  if (!images.is_array()) return fail(Errc::kUnavailable, "podman image inspect gave no list");
  std::set<std::string> layers;
  for (const auto& image : images) {
    const auto& list = at_path(image, {"RootFS", "Layers"});
    if (!list.is_array()) continue;  // an image without layers
    TS_TRY_ASSIGN(auto diff_ids, texts(list, "podman's list of layers"));
    layers.insert(diff_ids.begin(), diff_ids.end());
  }
  return std::vector<std::string>(layers.begin(), layers.end());
}

Result<> import_image(const ImageStore& store, const std::string& directory, const std::string& reference,
                      const std::string& image_id, Deadline deadline, const Cancel& cancel) {
  TS_TRY_ASSIGN(auto id, bare_id(image_id));
  // Checked before anything is stored: the configuration's digest is the image's id, skopeo checks the contents.
  TS_TRY_ASSIGN(json manifest, document(directory + "/manifest.json"));
  TS_TRY_ASSIGN(ImageBlob config, blob_of(at_path(manifest, {"config"}), ""));
  if (config.file != id)
    return fail(Errc::kCorrupt, "import image {}: the source sent {} instead", id.substr(0, 12),
                config.file.substr(0, 12));
  TS_TRY(check_unpacked(directory, manifest));
  auto what = "import image " + id.substr(0, 12);
  std::vector<std::string> argv = {store.skopeo, "copy", "--quiet", "dir:" + directory, in_store(store, reference, id)};
  TS_TRY_CTX(run(std::move(argv), deadline, cancel), what);
  auto found = run(podman(store, {"image", "inspect", "--format", "{{.Id}}", id}), deadline, cancel);
  if (!found) return std::unexpected(std::move(found).error().context(what));
  if (trim(*found) != id) return fail(Errc::kCorrupt, "{}: storage has {} instead", what, trim(*found));
  return {};
}

}  // namespace transship::storage
