#include "storage/image_layout.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "sys/file.h"

namespace transship::storage {
namespace {

using nlohmann::json;

constexpr size_t kMaxDocument = 16U << 20;  // manifest or configuration of an image

// "sha256:<64 hex>" -> the name of the blob's file: never anything with a path in it.
Result<std::string> blob_file(const std::string& digest) {
  if (!digest.starts_with("sha256:"))
    return fail(Errc::kCorrupt, "image manifest: digest \"{}\" is not sha256", digest.substr(0, 80));
  return bare_image_id(digest);
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

}  // namespace

Result<std::string> bare_image_id(std::string_view id) {
  if (id.starts_with("sha256:")) id.remove_prefix(7);
  if (id.size() != 64 || id.find_first_not_of("0123456789abcdef") != std::string_view::npos)
    return fail(Errc::kInvalidArgument, "\"{}\" is not the id of an image", id.substr(0, 80));
  return std::string(id);
}

namespace {

// Else it could begin with the place of another storage, "[overlay@/elsewhere+/run]".
bool is_plain_reference(std::string_view reference) {
  constexpr std::string_view kMarks = "._-/:";
  auto letter_or_digit = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  return !reference.empty() && letter_or_digit(reference.front()) &&
         std::ranges::all_of(reference, [&](char c) { return letter_or_digit(c) || kMarks.contains(c); });
}

}  // namespace

std::string skopeo_name(const ImageStore& store, const std::string& reference, const std::string& image_id) {
  if (!is_plain_reference(reference)) return "containers-storage:" + store.location + "@" + image_id;
  return "containers-storage:" + store.location + reference;
}

Result<std::string> image_id_in(const std::string& directory) {
  TS_TRY_ASSIGN(json manifest, document(directory + "/manifest.json"));
  TS_TRY_ASSIGN(ImageBlob config, blob_of(at_path(manifest, {"config"}), ""));
  return config.file;
}

Result<std::vector<std::string>> layer_files_in(const std::string& directory) {
  TS_TRY_ASSIGN(json manifest, document(directory + "/manifest.json"));
  const auto& layers = at_path(manifest, {"layers"});
  std::vector<std::string> files;
  for (const auto& layer : layers.is_array() ? layers : json::array()) {
    TS_TRY_ASSIGN(ImageBlob blob, blob_of(layer, ""));
    files.push_back(std::move(blob.file));
  }
  return files;
}

Result<> read_image_layout(ExportedImage& image) {
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

Result<std::vector<std::string>> layers_in(std::string_view inspected) {
  auto images = json::parse(inspected, nullptr, false);
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

}  // namespace transship::storage
