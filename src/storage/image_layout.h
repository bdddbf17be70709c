// What is in a directory with an image, in skopeo's `dir:` layout. On the destination a peer has filled it.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "storage/image.h"

namespace transship::storage {

// 64 digits of hex, which may come as "sha256:…". kInvalidArgument.
Result<std::string> bare_image_id(std::string_view id);
// How skopeo is told of an image in this host's storage: by its name, else by its id (bare hex). A peer gave the name.
std::string skopeo_name(const ImageStore& store, const std::string& reference, const std::string& image_id);
// The id of the image in it: the digest of its configuration. kCorrupt.
Result<std::string> image_id_in(const std::string& directory);
// Names of the files of its layers, there or not. kCorrupt.
Result<std::vector<std::string>> layer_files_in(const std::string& directory);
// Requires `directory` and `image_id`; fills in the rest. kCorrupt.
Result<> read_image_layout(ExportedImage& image);
// Diff ids of all layers that `podman image inspect` tells of, each once.
Result<std::vector<std::string>> layers_in(std::string_view inspected);

}  // namespace transship::storage
