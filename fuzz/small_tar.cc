// The archive of a small tmpfs mount, which comes in CRIU's images, as transship-tar unpacks it.
#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>

#include "fuzz/box.h"
#include "fuzz/input.h"
#include "fuzz/tar_blocks.h"
#include "fuzz/target.h"
#include "gate/small_tar.h"
#include "sys/file.h"

namespace transship::fuzz {
namespace {

Box& box() {
  static Box one;
  return one;
}

uint32_t crc32(std::string_view data) {
  uint32_t crc = ~0U;
  for (char c : data) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xedb88320U : 0U);
  }
  return ~crc;
}

// As make_small_tar() packs it, in one block.
std::string packed(std::string_view tar) {
  auto size = static_cast<uint16_t>(std::min<size_t>(tar.size(), 65535));
  tar = tar.substr(0, size);
  return Output()
      .raw(std::string_view("\x1f\x8b\x08\0\0\0\0\0\0\x03\1", 11))
      .number(size)
      .number(static_cast<uint16_t>(~size))
      .raw(tar)
      .number(crc32(tar))
      .number(static_cast<uint32_t>(size))
      .bytes();
}

// A header with a name, a kind and the target of a link; the rest as it should be. "@" is where the box is.
std::string header(Input& in) {
  auto text = [&] {
    auto given = in.text();
    return given.starts_with('@') ? box().path() + given.substr(1) : given;
  };
  std::string block(kTarBlock, '\0');
  auto put = [&](size_t at, size_t size, std::string_view value) {
    block.replace(at, std::min(size, value.size()), value.substr(0, size));
  };
  put(0, 100, "./" + text());
  auto content = in.byte() % 64U;
  put(100, 8, fmt::format("{:07o}", in.number<uint16_t>() & 07777U));
  for (size_t at : {108U, 116U}) put(at, 8, fmt::format("{:07o}", 0));
  for (size_t at : {329U, 337U}) put(at, 8, fmt::format("{:07o}", 0));
  block[156] = "02356"[in.byte() % 5];
  if (block[156] != '0') content = 0;
  put(124, 12, fmt::format("{:011o}", content));
  put(136, 12, fmt::format("{:011o}", 1'700'000'000));
  put(157, 100, text());
  put(257, 8, std::string_view("ustar\00000", 8));
  if (content > 0) block += std::string(content, 'c') + std::string(kTarBlock - content, '\0');
  return block;
}

void run(std::string_view bytes) {
  Input in(bytes);
  auto how = in.byte();
  std::string archive;
  if ((how & 3) == 0) {
    std::string tar;
    for (int entries = 0; !in.empty() && entries < 64; ++entries) tar += header(in);
    archive = packed(with_checksums(tar + std::string(2 * kTarBlock, '\0')));
  } else {
    archive = (how & 3) == 1 ? packed(with_checksums(in.rest())) : std::string(in.rest());
  }
  auto unpacked = gate::unpack_small_tar(archive, box().inside_fd());
  box().check();
  if (!unpacked && unpacked.error().code() == Errc::kRefused)
    TS_CHECK(std::filesystem::is_empty(box().inside()), "it was refused, and something is there");
  if (unpacked) (void)gate::make_small_tar(box().inside_fd());
  box().clear();
}

std::string of_tree() {
  auto path = box().inside();
  TS_CHECK(::mkdir((path + "/d").c_str(), 0755) == 0);
  TS_CHECK(sys::write_file_atomic(path + "/d/f", "content"));
  TS_CHECK(::symlink("../../outside", (path + "/d/l").c_str()) == 0);
  TS_CHECK(::mkfifo((path + "/p").c_str(), 0600) == 0);
  auto archive = gate::make_small_tar(box().inside_fd());
  TS_CHECK(archive);
  box().clear();
  return *archive;
}

struct Wanted {
  std::string_view name;
  uint8_t kind = 0;  // of "02356"
  std::string_view link = {};
};

std::string encoded(const std::vector<Wanted>& entries) {
  Output out;
  out.byte(0);
  for (const auto& w : entries) out.piece(w.name).byte(5).number(uint16_t{0755}).byte(w.kind).piece(w.link);
  return out.bytes();
}

std::vector<std::string> seeds() {
  auto archive = of_tree();
  return {Output().byte(2).raw(archive).bytes(),
          // Without the ten bytes of gzip and the five of the block before the tar, and eight behind it.
          Output().byte(1).raw(std::string_view(archive).substr(15, archive.size() - 23)).bytes(),
          encoded({{"", 3}, {"d/", 3}, {"d/f"}, {"d/l", 1, "../.."}, {"p", 4}, {"dev", 2}}),
          encoded({{"a", 1, ".."}, {"a/new"}}), encoded({{"a", 1, "@/outside-dir"}, {"a/", 3}, {"a/file"}}),
          encoded({{"d/", 3}, {"d/../../outside"}}), encoded({{"f"}, {"f"}})};
}

const Registration kRegistration({"small_tar", run, seeds});

}  // namespace
}  // namespace transship::fuzz
