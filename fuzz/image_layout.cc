// An image that a source has sent: manifest and configuration in skopeo's layout; and what Podman says of its own.
#include "storage/image_layout.h"
#include "fuzz/box.h"
#include "fuzz/input.h"
#include "fuzz/target.h"

namespace transship::fuzz {
namespace {

using namespace storage;

Box& box() {
  static Box one;
  return one;
}

void put(const std::string& name, std::string_view bytes) {
  auto fd = open_file(box().inside() + "/" + name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  TS_CHECK(fd && write_all(fd->get(), bytes));
}

void run(std::string_view bytes) {
  Input in(bytes);
  auto manifest = in.piece();
  auto rest = in.rest();
  (void)layers_in(rest);
  put("manifest.json", manifest);
  ExportedImage image;
  image.directory = box().inside();
  if (auto id = image_id_in(image.directory); id) {
    TS_CHECK(bare_image_id(*id) && bare_image_id("sha256:" + *id));
    put(*id, rest);
    image.image_id = *id;
    if (read_image_layout(image)) {
      TS_CHECK(image.blobs.size() == image.diff_ids.size() + 1);
      for (const auto& file : image.files_needed({})) TS_CHECK(file.find('/') == std::string::npos, "{}", file);
      TS_CHECK(image.files_needed(image.diff_ids).size() <= image.small_files.size() + image.blobs.size());
    }
  }
  box().check();
  box().clear();
}

std::vector<std::string> seeds() {
  auto digest = [](char c) { return "sha256:" + std::string(64, c); };
  auto manifest = fmt::format(
      R"({{"schemaVersion":2,"config":{{"digest":"{}","size":7}},"layers":[{{"digest":"{}","size":100}}]}})",
      digest('a'), digest('b'));
  auto config = fmt::format(R"({{"rootfs":{{"type":"layers","diff_ids":["{}"]}}}})", digest('c'));
  auto inspected = fmt::format(R"([{{"RootFS":{{"Layers":["{}"]}}}},{{"RootFS":null}}])", digest('d'));
  return {Output().piece(manifest).raw(config).bytes(), Output().piece("{}").raw(inspected).bytes(),
          Output().piece(R"({"config":{"digest":"sha256:../../outside","size":1}})").bytes()};
}

const Registration kRegistration({"image_layout", run, seeds});

}  // namespace
}  // namespace transship::fuzz
