#include "storage/scan_diff.h"

#include <utility>

namespace transship::storage {
namespace {

bool changed(const Node& was, const Node& is) {
  return was.inode != is.inode || was.ctime_ns != is.ctime_ns || was.mtime_ns != is.mtime_ns || was.size != is.size ||
         was.mode != is.mode || was.nlink != is.nlink || was.rdev != is.rdev;
}

class Differ {
 public:
  Differ(const Scan& was, const Scan& is, Unsettled unsettled, ScanDiff& out)
      : was_(was), is_(is), unsettled_(unsettled), out_(out) {}

  void run() {
    out_.send[0] = differs(was_.nodes()[0], is_.nodes()[0]);
    pairs_.emplace_back(0U, 0U);
    while (!pairs_.empty()) {
      auto [old_dir, new_dir] = pairs_.back();
      pairs_.pop_back();
      merge(was_.nodes()[old_dir], is_.nodes()[new_dir]);
    }
  }

 private:
  void merge(const Node& old_dir, const Node& new_dir) {
    uint32_t o = old_dir.first_child, o_end = o + old_dir.child_count;
    uint32_t n = new_dir.first_child, n_end = n + new_dir.child_count;
    while (o < o_end || n < n_end) {
      int order = o == o_end ? 1 : n == n_end ? -1 : was_.name(o).compare(is_.name(n));
      if (order < 0) out_.deleted.push_back(was_.path(o));
      if (order > 0) add_tree(n);
      if (order == 0) same_name(o, n);
      if (order <= 0) ++o;
      if (order >= 0) ++n;
    }
  }

  void same_name(uint32_t o, uint32_t n) {
    const Node& was = was_.nodes()[o];
    const Node& is = is_.nodes()[n];
    if (S_ISDIR(is.mode) && !S_ISDIR(was.mode)) return add_tree(n);
    out_.send[n] = differs(was, is);
    if (S_ISDIR(is.mode)) pairs_.emplace_back(o, n);
  }

  bool differs(const Node& was, const Node& is) const {
    if (is_whiteout(was.mode, was.rdev) && is_whiteout(is.mode, is.rdev)) return false;
    return (was.unsettled && unsettled_ == Unsettled::kDiffers) || changed(was, is);
  }

  void add_tree(uint32_t top) {
    std::vector<uint32_t> pending = {top};
    while (!pending.empty()) {
      uint32_t i = pending.back();
      pending.pop_back();
      out_.send[i] = true;
      const Node& node = is_.nodes()[i];
      for (uint32_t c = 0; c < node.child_count; ++c) pending.push_back(node.first_child + c);
    }
  }

  const Scan& was_;
  const Scan& is_;
  Unsettled unsettled_;
  ScanDiff& out_;
  std::vector<std::pair<uint32_t, uint32_t>> pairs_;
};

void widen_to_linked_names(const Scan& now, const std::unordered_set<uint64_t>& always, std::vector<bool>& send) {
  std::unordered_set<uint64_t> inodes;
  const auto& nodes = now.nodes();
  for (size_t i = 0; i < nodes.size(); ++i) {
    const Node& n = nodes[i];
    if (S_ISDIR(n.mode) || is_whiteout(n.mode, n.rdev)) continue;
    if (always.contains(n.inode)) send[i] = true;
    if (send[i] && n.nlink > 1) inodes.insert(n.inode);
  }
  if (inodes.empty()) return;
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (!S_ISDIR(nodes[i].mode) && !is_whiteout(nodes[i].mode, nodes[i].rdev) && inodes.contains(nodes[i].inode))
      send[i] = true;
  }
}

}  // namespace

ScanDiff diff_scans(const Scan* previous, const Scan& now, const std::unordered_set<uint64_t>& always,
                    Unsettled unsettled) {
  ScanDiff diff;
  diff.send.assign(now.nodes().size(), previous == nullptr);
  if (previous == nullptr) return diff;
  Differ(*previous, now, unsettled, diff).run();
  widen_to_linked_names(now, always, diff.send);
  return diff;
}

}  // namespace transship::storage
