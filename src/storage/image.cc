#include "storage/image.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <set>

#include "base/fd.h"
#include "base/text.h"
#include "storage/image_layout.h"
#include "sys/file.h"
#include "sys/process.h"

namespace transship::storage {
namespace {

Result<std::string> run(std::vector<std::string> argv, Deadline deadline, const Cancel& cancel) {
  sys::Command c;
  c.argv = std::move(argv);
  c.deadline = deadline;
  c.max_output = 64U << 20;
  TS_TRY_ASSIGN(auto done, sys::run_ok(c, &cancel));
  return done.out;
}

std::vector<std::string> podman(const ImageStore& store, std::vector<std::string> arguments) {
  auto argv = store.podman;
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  return argv;
}

// Layers travel as they are. One that is packed could be of any size when it is unpacked, whatever was reserved.
Result<> check_unpacked(const std::string& directory) {
  using namespace std::string_view_literals;
  constexpr std::array kPacked = {"\x1f\x8b"sv, "\x28\xb5\x2f\xfd"sv, "BZh"sv, "\xfd\x37zXZ"sv};
  TS_TRY_ASSIGN(auto layers, layer_files_in(directory));
  for (const auto& layer : layers) {
    auto file = open_file(directory + "/" + layer, O_RDONLY | O_NOFOLLOW);
    if (!file) continue;  // one that is here already did not travel
    std::array<char, 6> start{};
    ssize_t n = retry_eintr([&] { return ::pread(file->get(), start.data(), start.size(), 0); });
    if (n < 0) return fail_errno(errno, "read layer {}", layer.substr(0, 12));
    std::string_view seen(start.data(), static_cast<size_t>(n));
    if (std::ranges::any_of(kPacked, [&](auto magic) { return seen.starts_with(magic); }))
      return fail(Errc::kPeerProtocol, "layer {} of the image came packed: refused", layer.substr(0, 12));
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
  TS_TRY_ASSIGN(image.image_id, bare_image_id(image_id));
  TS_TRY(sys::make_dirs(directory));
  std::vector<std::string> argv = {store.skopeo, "copy", "--quiet", skopeo_name(store, "", image.image_id),
                                   "dir:" + directory};
  TS_TRY_CTX(run(std::move(argv), deadline, cancel), "export image " + image.image_id.substr(0, 12));
  TS_TRY(read_image_layout(image));
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
  return layers_in(text);
}

Result<> import_image(const ImageStore& store, const std::string& directory, const std::string& reference,
                      const std::string& image_id, Deadline deadline, const Cancel& cancel) {
  TS_TRY_ASSIGN(auto id, bare_image_id(image_id));
  // Checked before anything is stored: the configuration's digest is the image's id, skopeo checks the contents.
  TS_TRY_ASSIGN(auto sent, image_id_in(directory));
  if (sent != id)
    return fail(Errc::kCorrupt, "import image {}: the source sent {} instead", id.substr(0, 12), sent.substr(0, 12));
  TS_TRY(check_unpacked(directory));
  auto what = "import image " + id.substr(0, 12);
  std::vector<std::string> argv = {store.skopeo, "copy", "--quiet", "dir:" + directory,
                                   skopeo_name(store, reference, id)};
  TS_TRY_CTX(run(std::move(argv), deadline, cancel), what);
  auto found = run(podman(store, {"image", "inspect", "--format", "{{.Id}}", id}), deadline, cancel);
  if (!found) return std::unexpected(std::move(found).error().context(what));
  if (trim(*found) != id) return fail(Errc::kCorrupt, "{}: storage has {} instead", what, trim(*found));
  return {};
}

}  // namespace transship::storage
