#include "criu/engine_file_images.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "criu/image_file.h"

namespace transship::criu {
namespace {

constexpr const char* kFiles = "files.img";

// As Podman makes them, and Docker all but the last. Podman fills /etc/hosts after it has called the runtime, so that
// it is empty while tasks are restored, whatever will be in it.
constexpr std::array<std::string_view, 4> kMadeByTheEngine = {"etc/hosts", "etc/resolv.conf", "etc/hostname",
                                                              "run/.containerenv"};

bool made_by_the_engine(std::string_view name) {
  if (name.starts_with("./")) name.remove_prefix(1);
  if (name.starts_with('/')) name.remove_prefix(1);
  return std::ranges::contains(kMadeByTheEngine, name);
}

Result<uint32_t> rewrite(int directory) {
  uint32_t changed = 0;
  TS_TRY_ASSIGN(auto bytes, read_image(directory, kFiles));
  TS_TRY_ASSIGN(auto records, parse_image(bytes, ImageMagic::kFiles, kFiles));
  std::vector<std::string> after;
  after.reserve(records.size());
  for (auto record : records) {
    TS_TRY_ASSIGN(auto file, decode_record<img::File>(record, kFiles));
    if (file.has_reg() && file.reg().has_size() && made_by_the_engine(file.reg().name())) {
      file.mutable_reg()->clear_size();
      ++changed;
      after.push_back(file.SerializeAsString());
    } else {
      after.emplace_back(record);
    }
  }
  if (changed > 0) TS_TRY(write_image(directory, kFiles, serialize_image(ImageMagic::kFiles, after)));
  return changed;
}

}  // namespace

Result<uint32_t> accept_engine_files(const std::string& images_dir) {
  TS_TRY_ASSIGN(Fd directory, open_file(images_dir, O_RDONLY | O_DIRECTORY));
  auto changed = rewrite(directory.get());
  if (!changed) return std::unexpected(std::move(changed).error().context("images in " + images_dir));
  return changed;
}

}  // namespace transship::criu
