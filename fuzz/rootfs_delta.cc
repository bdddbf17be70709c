// A round of the root file system, applied to a tree that earlier rounds have made.
#include <filesystem>

#include "fuzz/box.h"
#include "fuzz/input.h"
#include "fuzz/memory_stream.h"
#include "fuzz/tar_blocks.h"
#include "fuzz/target.h"
#include "storage/archive.h"
#include "storage/tree_delta.h"

namespace transship::fuzz {
namespace {

using namespace storage;

constexpr ApplyLimits kLimits{.max_bytes = 1U << 20,
                              .max_file_size = 1U << 20,
                              .max_entries = 200,
                              .max_path = 6000,
                              .max_xattr_bytes = 4096,
                              .allow_devices = false};

Box& box() {
  static Box one;
  return one;
}

class Bytes final : public Writer, public Reader {
 public:
  explicit Bytes(std::string given = {}) : bytes(std::move(given)) {}
  Result<> write(std::span<const std::byte> data) override {
    bytes.append(reinterpret_cast<const char*>(data.data()), data.size());
    return {};
  }
  Result<size_t> read(std::span<std::byte> buffer) override {
    auto size = std::min(buffer.size(), bytes.size() - at);
    std::memcpy(buffer.data(), bytes.data() + at, size);
    at += size;
    return size;
  }
  std::string bytes;
  size_t at = 0;
};

// "@" is where the box is: for links with a whole path.
std::string name_of(Input& in) {
  auto text = in.text();
  return text.starts_with('@') ? box().path() + text.substr(1) : text;
}

constexpr mode_t kTypes[] = {S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK, 0};
constexpr const char* kXattrs[] = {"user.x",
                                   "trusted.overlay.opaque",
                                   "system.posix_acl_access",
                                   "security.capability",
                                   "trusted.overlay.metacopy",
                                   "trusted.overlay.redirect"};

// Ranges may be in any order and overlap; none is longer than what our sender can be asked for.
Patch patch_of(Input& in) {
  Patch patch{in.number<uint16_t>(), in.number<uint16_t>(), {}};
  for (auto ranges = in.byte() % 16; ranges > 0; --ranges) {
    auto how = in.byte();
    patch.ranges.push_back({in.number<uint16_t>(), in.number<uint16_t>(), (how & 1) != 0});
  }
  return patch;
}

Entry entry_of(Input& in) {
  Entry e;
  auto kind = in.byte();
  e.kind = kind % 8 == 7   ? Entry::Kind::kDeleted
           : kind % 8 == 6 ? Entry::Kind::kHardLink
           : kind % 8 == 5 ? Entry::Kind::kPatch
                           : Entry::Kind::kNode;
  e.path = name_of(in);
  auto type = in.byte();
  e.mode = kTypes[type % std::size(kTypes)] | (in.number<uint16_t>() & 07777U);
  if (e.kind == Entry::Kind::kHardLink) e.mode = S_IFREG | (e.mode & 07777U);
  if (S_ISLNK(e.mode) || e.kind == Entry::Kind::kHardLink) e.target = name_of(in);
  if (S_ISREG(e.mode) && e.kind == Entry::Kind::kNode) e.size = in.number<uint16_t>();
  if (e.kind == Entry::Kind::kPatch) e.patch = patch_of(in);
  if (S_ISCHR(e.mode) && (type & 8) != 0) e.rdev = in.byte();
  e.uid = (type & 16) != 0 ? in.number<uint32_t>() : 0;
  e.mtime = {in.byte(), 0};
  if ((type & 32) != 0) e.xattrs[kXattrs[in.byte() % std::size(kXattrs)]] = in.text();
  return e;
}

// As our own sender would write it, so that names and kinds are what is tried out, not the format.
std::string archive_of(Input& in) {
  Bytes out;
  auto writer = ArchiveWriter::create(out);
  TS_CHECK(writer);
  uint64_t count = 0;
  bool good = true;
  for (; good && !in.empty() && count < 64; ++count) {
    auto e = entry_of(in);
    good = !e.path.empty() && (*writer)->header(e).has_value();
    if (good && S_ISREG(e.mode) && e.kind == Entry::Kind::kNode) good = (*writer)->zeros(e.size).has_value();
    if (good && e.kind == Entry::Kind::kPatch) good = (*writer)->zeros(e.patch.data_length()).has_value();
  }
  Entry end;
  end.kind = Entry::Kind::kEnd;
  end.path = ".";
  end.count = count;
  if (good) good = (*writer)->header(end).has_value();
  if (good) (void)(*writer)->finish();
  return std::move(out.bytes);
}

// What was accepted can be sent on, and no round leaves anything of its own making.
void check_inside() {
  for (const auto& entry : std::filesystem::directory_iterator(box().inside()))
    TS_CHECK(!entry.path().filename().string().starts_with(".transship-removed"), "{}", entry.path().string());
  Bytes out;
  auto scan = send_round(box().inside_fd(), out, nullptr, {}, never());
  TS_CHECK(scan, "{}", scan.error().message());
}

// Two rounds: the second finds what the first has made.
void run(std::string_view bytes) {
  Input in(bytes);
  auto how = in.byte();
  Input first(in.piece()), second(in.rest());
  bool good = true;
  for (auto* round : {&first, &second}) {
    if (round->empty()) continue;
    Bytes stream((how & 1) != 0 ? with_checksums(round->rest()) : archive_of(*round));
    good = apply_round(box().inside_fd(), stream, kLimits, never()).has_value() && good;
    box().check();
  }
  // A device that stands for nothing is refused by the sender; with metacopy it needs the mounted tree.
  if (good) check_inside();
  box().clear();
}

// ---- seeds

struct Wanted {
  uint8_t kind = 0;
  std::string_view path;
  uint8_t type = 0;
  uint16_t mode = 0644;
  std::string_view target = {};
  uint16_t size = 0;
  Patch patch = {};
};

std::string encoded(const std::vector<Wanted>& entries) {
  Output out;
  for (const auto& w : entries) {
    out.byte(w.kind).piece(w.path).byte(w.type).number(w.mode);
    if (w.type == 2 || w.kind == 6) out.piece(w.target);
    if (w.type == 0 && w.kind == 0) out.number(w.size);
    if (w.kind == 5) {
      out.number(static_cast<uint16_t>(w.patch.base_size)).number(static_cast<uint16_t>(w.patch.size));
      out.byte(static_cast<uint8_t>(w.patch.ranges.size()));
      for (const auto& r : w.patch.ranges)
        out.byte(r.hole ? 1 : 0).number(static_cast<uint16_t>(r.offset)).number(static_cast<uint16_t>(r.length));
    }
    out.byte(9);
  }
  return out.bytes();
}

std::vector<std::string> seeds() {
  auto tree = encoded({{.path = ".", .type = 1, .mode = 0755},
                       {.path = "d", .type = 1, .mode = 0755},
                       {.path = "d/f", .size = 700},
                       {.path = "d/l", .type = 2, .target = "../../outside"},
                       {.path = "d/way-out", .type = 2, .target = "@/outside-dir"},
                       {.kind = 6, .path = "d/h", .target = "d/f"},
                       {.path = "pipe", .type = 3},
                       {.path = "socket", .type = 4},
                       {.path = "whiteout", .type = 5},
                       {.path = "made/on/the/way"}});
  auto change = encoded({{.path = "d/l"},
                         {.path = "d/way-out/file", .size = 3},
                         {.kind = 7, .path = "d/f"},
                         {.kind = 6, .path = "h2", .target = "d/way-out/file"}});
  auto replaced = encoded({{.path = "d", .type = 2, .target = ".."},
                           {.kind = 7, .path = "d/outside"},
                           {.path = "d/new"},
                           {.path = "../outside"},
                           {.kind = 6, .path = "x", .target = "../outside"}});
  auto emptied = encoded({{.kind = 7, .path = "d"}, {.path = "made", .size = 1}, {.path = "socket", .type = 1}});
  std::vector<std::string> all;
  for (const auto& second : {change, replaced, emptied, std::string()})
    all.push_back(Output().byte(0).piece(tree).raw(second).bytes());
  // Every entry takes some blocks of its own.
  auto some = encoded({{.path = "f", .size = 3}, {.path = "l", .type = 2, .target = "../outside"}});
  Input first(some), second(emptied);
  all.push_back(Output().byte(1).piece("").raw(archive_of(first)).bytes());
  all.push_back(Output().byte(1).piece(archive_of(second)).bytes());
  // A patch of what the first round made, of a link and of nothing; and what no sender says of one.
  auto patched =
      encoded({{.kind = 5, .path = "d/f", .patch = {700, 9000, {{0, 10, false}, {20, 30, true}, {8000, 500, false}}}},
               {.kind = 5, .path = "d/f", .patch = {9000, 100, {}}},
               {.kind = 5, .path = "d/h", .patch = {100, 100, {{99, 1, true}}}}});
  auto elsewhere = encoded({{.kind = 5, .path = "d/l", .patch = {9, 9, {{0, 9, false}}}}});
  auto overlapping = encoded({{.kind = 5, .path = "d/f", .patch = {700, 700, {{5, 10, false}, {0, 10, false}}}}});
  for (const auto& changes : {patched, elsewhere, overlapping})
    all.push_back(Output().byte(0).piece(tree).raw(changes).bytes());
  Input made(tree), blocks(patched);
  all.push_back(Output().byte(1).piece(archive_of(made)).raw(archive_of(blocks)).bytes());
  return all;
}

const Registration kRegistration({"rootfs_delta", run, seeds});

}  // namespace
}  // namespace transship::fuzz
