#include "storage/saved_scan.h"

#include <algorithm>
#include <limits>

#include "storage/saved_bytes.h"
#include "storage/scan_diff.h"

namespace transship::storage {
namespace {

//   "TSSC" u32 version u64 nodes
//   each node, breadth first: u64 inode, i64 change time, i64 modification time, i64 size, u64 blocks, u64 device,
//                             u32 children, u32 mode, u32 links, u8 unsettled, u8 length of its name, name
//   u64 XXH3-64 of all that
//
// Whose child a node is follows from the order, so there is no index that could be wrong.
constexpr std::string_view kMagic = "TSSC";
constexpr uint32_t kVersion = 1;
constexpr std::string_view kWhat = "the record of a tree's names";
constexpr size_t kNodeBytes = 6 * sizeof(uint64_t) + 3 * sizeof(uint32_t) + 2;

std::unexpected<Error> corrupt(size_t node, std::string_view why) {
  return fail(Errc::kCorrupt, "{} {}, at name {}", kWhat, why, node);
}

bool can_be_a_name(std::string_view name) {
  constexpr std::string_view kNever("/\0", 2);
  return !name.empty() && name != "." && name != ".." && name.find_first_of(kNever) == std::string_view::npos;
}

}  // namespace

class ScanParser {
 public:
  explicit ScanParser(RecordReader in) : in_(in) {}

  Result<Scan> run(size_t max_nodes) {
    uint64_t count = 0;
    if (!in_.number(count)) return corrupt(0, "is cut");
    if (count == 0) return corrupt(0, "has no root");
    if (count > in_.left() / kNodeBytes) return corrupt(0, "has less names than it says");
    if (count > std::min<uint64_t>(max_nodes, std::numeric_limits<uint32_t>::max()))
      return fail(Errc::kNoSpace, "{} has {} names, and may have {}", kWhat, count, max_nodes);
    auto& nodes = scan_.nodes_;
    nodes.reserve(count);
    TS_TRY(read_node(0));
    for (size_t parent = 0; parent < nodes.size(); ++parent) TS_TRY(read_children(parent, count));
    if (nodes.size() != count) return corrupt(nodes.size(), "has names in no directory");
    if (!in_.empty()) return corrupt(nodes.size(), "goes on after its end");
    return std::move(scan_);
  }

 private:
  Result<> read_children(size_t parent, size_t count) {
    auto& nodes = scan_.nodes_;
    auto first = nodes.size();
    auto children = nodes[parent].child_count;
    if (children == 0) return {};
    if (!S_ISDIR(nodes[parent].mode)) return corrupt(parent, "has names in what is no directory");
    if (children > count - first) return corrupt(parent, "has a directory with more names than there are");
    nodes[parent].first_child = static_cast<uint32_t>(first);
    for (size_t i = first; i < first + children; ++i) {
      TS_TRY(read_node(static_cast<uint32_t>(parent)));
      auto at = static_cast<uint32_t>(i);
      if (i > first && scan_.name(at) < scan_.name(at - 1)) return corrupt(i, "has names that are not in order");
    }
    return {};
  }

  Result<> read_node(uint32_t parent) {
    size_t index = scan_.nodes_.size();
    Node n;
    uint64_t device = 0;
    uint8_t unsettled = 0;
    std::string_view name;
    if (!in_.number(n.inode) || !in_.number(n.ctime_ns) || !in_.number(n.mtime_ns) || !in_.number(n.size) ||
        !in_.number(n.blocks) || !in_.number(device) || !in_.number(n.child_count) || !in_.number(n.mode) ||
        !in_.number(n.nlink) || !in_.number(unsettled) || !in_.number(n.name_length) || !in_.bytes(n.name_length, name))
      return corrupt(index, "is cut");
    if (unsettled > 1) return corrupt(index, "has a mark that cannot be");
    if (index == 0 ? !name.empty() : !can_be_a_name(name)) return corrupt(index, "has a name that cannot be");
    n.rdev = device;
    n.unsettled = unsettled == 1;
    n.parent = parent;
    n.name_at = scan_.names_.size();
    scan_.names_ += name;
    scan_.nodes_.push_back(n);
    return {};
  }

  RecordReader in_;
  Scan scan_;
};

std::string serialize(const Scan& scan) {
  const auto& nodes = scan.nodes();
  TS_CHECK(!nodes.empty());
  auto text = begin_record(kMagic, kVersion);
  append_number(text, static_cast<uint64_t>(nodes.size()));
  for (uint32_t i = 0; i < nodes.size(); ++i) {
    const Node& n = nodes[i];
    append_number(text, n.inode);
    append_number(text, n.ctime_ns);
    append_number(text, n.mtime_ns);
    append_number(text, n.size);
    append_number(text, n.blocks);
    append_number(text, static_cast<uint64_t>(n.rdev));
    append_number(text, n.child_count);
    append_number(text, static_cast<uint32_t>(n.mode));
    append_number(text, n.nlink);
    append_number(text, static_cast<uint8_t>(n.unsettled ? 1 : 0));
    append_number(text, n.name_length);
    text += scan.name(i);
  }
  end_record(text);
  return text;
}

Result<Scan> parse_scan(std::string_view text, size_t max_nodes) {
  TS_TRY_ASSIGN(auto in, RecordReader::open(text, kMagic, kVersion, kWhat));
  return ScanParser(in).run(max_nodes);
}

std::optional<std::string> first_difference(const Scan& was, const Scan& now) {
  auto diff = diff_scans(&was, now, {}, Unsettled::kIsAsItLooks);
  std::optional<std::string> directory;
  for (uint32_t i = 0; i < diff.send.size(); ++i) {
    if (!diff.send[i]) continue;
    if (!S_ISDIR(now.nodes()[i].mode)) return now.path(i);
    if (!directory) directory = now.path(i);
  }
  if (!diff.deleted.empty()) return std::move(diff.deleted.front());
  return directory;
}

}  // namespace transship::storage
