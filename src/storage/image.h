// Container images without a registry: layers straight from the source's storage into the destination's, with skopeo.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/result.h"

namespace transship::storage {

// Which containers-storage: empty `location` is the host's own; else skopeo's "[driver@graphroot+runroot]", and
// `podman` has the options that say the same.
struct ImageStore {
  std::string skopeo = "skopeo";
  std::vector<std::string> podman = {"podman"};
  std::string location = {};
};

struct ImageBlob {
  std::string file;     // in the directory
  std::string diff_id;  // "sha256:…" of the uncompressed layer; empty for the configuration
  uint64_t bytes = 0;
};

// A directory in skopeo's `dir:` layout.
struct ExportedImage {
  std::string directory;
  std::string image_id;                  // bare hex
  std::vector<std::string> diff_ids;     // lowest first
  std::vector<ImageBlob> blobs;          // layers (lowest first) and configuration
  std::vector<std::string> small_files;  // "manifest.json", "version": always travel
  // Files to send to a destination that has the layers `present` already.
  std::vector<std::string> files_needed(const std::vector<std::string>& present) const;
};

// `image_id`: hex, with or without "sha256:". `directory` must be empty or absent; needs room for the whole image.
Result<ExportedImage> export_image(const ImageStore& store, const std::string& image_id, const std::string& directory,
                                   Deadline deadline, const Cancel& cancel);

// Diff ids of the layers of every image in this host's storage.
Result<std::vector<std::string>> present_layers(const ImageStore& store, Deadline deadline, const Cancel& cancel);

// `directory` as received, blobs of present layers left out. The image gets the name `reference` ("name:tag"; empty, or
// with a digest in it: no name, the image is known by its id). kCorrupt when what came out is not `image_id`. The
// manifest digest may differ from the registry's (layers travel uncompressed), which is why a name with a digest cannot
// be given.
Result<> import_image(const ImageStore& store, const std::string& directory, const std::string& reference,
                      const std::string& image_id, Deadline deadline, const Cancel& cancel);

}  // namespace transship::storage
