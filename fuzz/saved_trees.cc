// What a daemon reads back of trees that an earlier one has seen: scans, and the hashes of what the other side has. The
// checksum is made to fit.
#include <sys/stat.h>

#include "fuzz/input.h"
#include "fuzz/target.h"
#include "storage/beneath.h"
#include "storage/known_files.h"
#include "storage/saved_bytes.h"
#include "storage/saved_scan.h"
#include "storage/scan_diff.h"

namespace transship::fuzz {
namespace {

using namespace storage;

constexpr size_t kMaxNodes = 2000;
constexpr size_t kMaxBytes = 1U << 20;

std::string sealed(std::string_view bytes) {
  std::string record(bytes);
  end_record(record);
  return record;
}

void check_tree(const Scan& scan) {
  const auto& nodes = scan.nodes();
  TS_CHECK(!nodes.empty() && nodes.size() <= kMaxNodes && scan.name(0).empty());
  size_t next = 1;
  for (uint32_t i = 0; i < nodes.size(); ++i) {
    const Node& n = nodes[i];
    TS_CHECK(i == 0 || (n.parent < i && is_clean_path(scan.name(i))));
    if (n.child_count == 0) continue;
    TS_CHECK(S_ISDIR(n.mode) && n.first_child == next);
    next += n.child_count;
    for (uint32_t c = n.first_child; c < n.first_child + n.child_count; ++c) TS_CHECK(nodes.at(c).parent == i);
  }
  TS_CHECK(next == nodes.size());
}

void compare(const Scan& a, const Scan& b) {
  auto diff = diff_scans(&a, b, {});
  TS_CHECK(diff.send.size() == b.entries());
  for (const auto& path : diff.deleted) TS_CHECK(is_clean_path(path));
  auto first = first_difference(a, b);
  TS_CHECK(!first || *first == "." || is_clean_path(*first));
  auto own = first_difference(a, a);
  TS_CHECK(!own, "a tree that differs from itself at {}", *own);
}

void scans(std::string_view one, std::string_view two) {
  auto record = sealed(one);
  auto a = parse_scan(record, kMaxNodes);
  if (!a) return;
  check_tree(*a);
  TS_CHECK(serialize(*a) == record);
  (void)a->disk_bytes();
  auto b = parse_scan(sealed(two), kMaxNodes);
  if (b) compare(*a, *b), compare(*b, *a);
}

void known(std::string_view bytes) {
  auto files = KnownFiles::parse(sealed(bytes), kMaxBytes);
  if (!files) return;
  TS_CHECK(files->bytes() <= kMaxBytes);
  auto again = KnownFiles::parse(files->serialize(), kMaxBytes);
  TS_CHECK(again && again->files() == files->files() && again->bytes() == files->bytes());
  files->forget_tree("a");
  TS_CHECK(!files->has("a") && files->bytes() <= again->bytes());
}

void run(std::string_view bytes) {
  Input in(bytes);
  (void)parse_scan(bytes, kMaxNodes);
  (void)KnownFiles::parse(bytes, kMaxBytes);
  if (in.flag()) return known(in.rest());
  auto one = in.piece();
  scans(one, in.rest());
}

// ---- seeds

struct Name {
  std::string_view name;
  uint32_t children;
  uint32_t mode;
  uint64_t inode;
  uint32_t links = 1;
};

// As serialize() has it, without a checksum: a scan can only be had of a real tree.
std::string scan_of(std::initializer_list<Name> names) {
  auto record = begin_record("TSSC", 1);
  append_number(record, static_cast<uint64_t>(names.size()));
  for (const auto& n : names) {
    append_number(record, n.inode);
    for (uint64_t time : {1'700'000'000'000'000'000U, 1'600'000'000'000'000'000U})
      append_number(record, time + n.inode);
    for (uint64_t other : {4096U, 8U, 0U}) append_number(record, other);
    for (uint32_t number : {n.children, n.mode, n.links}) append_number(record, number);
    append_number(record, static_cast<uint8_t>(n.inode % 2));
    append_number(record, static_cast<uint8_t>(n.name.size()));
    record += n.name;
  }
  auto parsed = parse_scan(sealed(record));
  TS_CHECK(parsed, "{}", parsed.error().message());
  return record;
}

std::string known_files() {
  KnownFiles files;
  FileHashes hashes{5 * kHashBlock - 1, std::vector<BlockHash>(5)};
  hashes.blocks[0] = {1, 2};
  hashes.blocks[3] = {3, 4};
  hashes.blocks[4] = {5, 6};
  TS_CHECK(files.put("a/b", {hashes}) && files.put("a", {{}}) && files.put("z", {{1, {{7, 8}}}}));
  auto record = files.serialize();
  record.resize(record.size() - sizeof(uint64_t));
  return record;
}

std::vector<std::string> seeds() {
  constexpr uint32_t kDir = S_IFDIR | 0755, kFile = S_IFREG | 0644;
  auto was = scan_of({{"", 3, kDir, 2},
                      {"a", 2, kDir, 10},
                      {"b", 0, kFile, 11, 2},
                      {"c", 0, kDir, 12},
                      {"x", 0, kFile, 11, 2},
                      {"y", 0, S_IFCHR, 13}});
  auto now = scan_of({{"", 3, kDir, 2},
                      {"a", 1, kDir, 10},
                      {"c", 1, kDir, 12},
                      {"d", 0, kFile, 14},
                      {"y", 0, S_IFCHR, 15},
                      {"z", 0, S_IFLNK | 0777, 16}});
  return {Output().byte(0).piece(was).raw(now).bytes(),
          Output().byte(0).piece(now).raw(was).bytes(),
          Output().byte(0).piece(scan_of({{"", 0, kFile, 1}})).bytes(),
          Output().byte(1).raw(known_files()).bytes(),
          sealed(was),
          sealed(known_files())};
}

const Registration kRegistration({"saved_trees", run, seeds});

}  // namespace
}  // namespace transship::fuzz
