#include "storage/scan.h"

#include <dirent.h>

#include <algorithm>
#include <ctime>
#include <unordered_set>

#include "storage/beneath.h"
#include "storage/scan_diff.h"

namespace transship::storage {

std::string Scan::path(uint32_t index) const {
  if (index == 0) return ".";
  std::vector<uint32_t> chain;
  for (; index != 0; index = nodes_[index].parent) chain.push_back(index);
  std::string path;
  for (auto it = chain.rbegin(); it != chain.rend(); ++it) {
    if (!path.empty()) path.push_back('/');
    path += name(*it);
  }
  return path;
}

uint64_t Scan::disk_bytes() const {
  uint64_t sum = 0;
  std::unordered_set<uint64_t> linked;
  for (const auto& n : nodes_) {
    if (!S_ISREG(n.mode) || (n.nlink > 1 && !linked.insert(n.inode).second)) continue;
    sum += n.blocks * 512;
  }
  return sum;
}

int64_t to_ns(const timespec& t) { return static_cast<int64_t>(t.tv_sec) * 1'000'000'000 + t.tv_nsec; }

int64_t wall_clock_ns() {
  timespec now = {};
  (void)::clock_gettime(CLOCK_REALTIME, &now);
  return to_ns(now);
}

bool looks_like_crius(std::string_view name, const struct stat& st) {
  constexpr std::string_view kPrefix = "cr-tmpfs.";
  return name.starts_with(kPrefix) && name.size() == kPrefix.size() + 6 && S_ISDIR(st.st_mode) &&
         (st.st_mode & 07777) == 0700;
}

void set_attributes(Node& node, const struct stat& st, int64_t seen_at_ns) {
  // Times of files come from a clock that moves in ticks of up to 10 ms: a change that follows within the tick leaves
  // the same time. Twice that, to be safe.
  constexpr int64_t kTickNs = 20'000'000;
  node.inode = st.st_ino;
  node.ctime_ns = to_ns(st.st_ctim);
  node.mtime_ns = to_ns(st.st_mtim);
  node.size = st.st_size;
  node.blocks = static_cast<uint64_t>(st.st_blocks);
  node.rdev = st.st_rdev;
  node.mode = st.st_mode;
  node.nlink = static_cast<uint32_t>(st.st_nlink);
  node.unsettled = node.ctime_ns >= seen_at_ns - kTickNs;
}

class Scanner {
 public:
  Scanner(int root_fd, const Cancel& cancel) : root_fd_(root_fd), cancel_(cancel) {}

  Result<Scan> run() {
    struct stat st = {};
    int64_t now = wall_clock_ns();
    if (::fstatat(root_fd_, "", &st, AT_EMPTY_PATH) != 0)
      return fail_errno(errno, "read attributes of the root directory");
    Node root;
    set_attributes(root, st, now);
    scan_.nodes_.push_back(root);
    for (uint32_t i = 0; i < scan_.nodes_.size(); ++i) {
      if (S_ISDIR(scan_.nodes_[i].mode)) TS_TRY(read_directory(i));
    }
    return std::move(scan_);
  }

 private:
  struct Found {
    std::string name;
    struct stat st;
    int64_t seen_at_ns;
  };

  Result<> read_directory(uint32_t index) {
    TS_TRY(cancel_.check());
    auto dir = open_dir_beneath(root_fd_, scan_.path(index), O_RDONLY | O_NOATIME);
    if (!dir && dir.error().sys_errno() == EPERM) dir = open_dir_beneath(root_fd_, scan_.path(index));
    if (!dir) {
      int e = dir.error().sys_errno();
      if (e == EXDEV) return {};  // a mount: not part of this tree
      if (e != ENOENT && e != ENOTDIR && e != ELOOP) return std::unexpected(std::move(dir).error());
      scan_.nodes_[index].unsettled = true;  // replaced since we saw it
      return {};
    }
    TS_TRY_ASSIGN(auto found, list(std::move(*dir), index));
    std::ranges::sort(found, {}, &Found::name);
    if (scan_.nodes_.size() + found.size() > UINT32_MAX)
      return fail(Errc::kRefused, "the tree has over 4 billion names");
    scan_.nodes_[index].first_child = static_cast<uint32_t>(scan_.nodes_.size());
    scan_.nodes_[index].child_count = static_cast<uint32_t>(found.size());
    for (const auto& f : found) add(f, index);
    return {};
  }

  Result<std::vector<Found>> list(Fd fd, uint32_t index) {
    int dir_fd = fd.get();
    std::unique_ptr<DIR, int (*)(DIR*)> dir(::fdopendir(dir_fd), ::closedir);
    if (!dir) return fail_errno(errno, "read directory {}", printable(scan_.path(index)));
    (void)fd.release();
    std::vector<Found> found;
    while (true) {
      errno = 0;
      dirent* e = ::readdir(dir.get());
      if (e == nullptr && errno != 0) return fail_errno(errno, "read directory {}", printable(scan_.path(index)));
      if (e == nullptr) return found;
      std::string_view name = e->d_name;
      if (name == "." || name == "..") continue;
      Found f{std::string(name), {}, wall_clock_ns()};
      if (::fstatat(dir_fd, f.name.c_str(), &f.st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) != 0) {
        if (errno == ENOENT) continue;  // removed meanwhile
        return fail_errno(errno, "read attributes of {}", printable(f.name));
      }
      if (!is_crius(f, index)) found.push_back(std::move(f));
    }
  }

  bool is_crius(const Found& f, uint32_t parent) const {
    return looks_like_crius(f.name, f.st) && (parent == 0 || scan_.path(parent) == "tmp");
  }

  void add(const Found& f, uint32_t parent) {
    Node node;
    set_attributes(node, f.st, f.seen_at_ns);
    node.parent = parent;
    node.name_at = scan_.names_.size();
    node.name_length = static_cast<uint8_t>(f.name.size());
    scan_.names_ += f.name;
    scan_.nodes_.push_back(node);
  }

  int root_fd_;
  const Cancel& cancel_;
  Scan scan_;
};

Result<Scan> scan_tree(int root_fd, const Cancel& cancel) { return Scanner(root_fd, cancel).run(); }

}  // namespace transship::storage
