#include <sys/stat.h>

#include <unordered_map>

#include "storage/archive.h"
#include "storage/beneath.h"
#include "storage/scan_diff.h"
#include "storage/tree_delta.h"
#include "storage/watch/tree_watch.h"

namespace transship::storage {
namespace {

constexpr size_t kReadSize = 1 << 20;

// What is known before the contents are read; nothing when the name is gone or is something else by now.
struct Current {
  struct stat st = {};
  int64_t seen_at_ns = 0;
};

bool same_file(const struct stat& a, const struct stat& b) {
  return a.st_ino == b.st_ino && a.st_size == b.st_size && to_ns(a.st_ctim) == to_ns(b.st_ctim) &&
         to_ns(a.st_mtim) == to_ns(b.st_mtim);
}

// Where the data is; empty when there is none at all or everything is data.
Result<std::vector<Extent>> data_extents(int fd, int64_t size) {
  std::vector<Extent> extents;
  int64_t at = 0;
  while (at < size) {
    off_t data = ::lseek(fd, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    if (data < 0 && errno == EINVAL) return std::vector<Extent>{{0, size}};  // this file system cannot tell
    if (data < 0) return fail_errno(errno, "look for holes");
    off_t hole = ::lseek(fd, data, SEEK_HOLE);
    if (hole < 0 && errno == ENXIO) break;  // shrank meanwhile
    if (hole < 0) return fail_errno(errno, "look for holes");
    int64_t end = std::min<int64_t>(hole, size);
    if (data < end) extents.push_back({data, end - data});
    at = hole;
  }
  return extents;
}

Result<std::string> read_link(int dir_fd, const std::string& name, int64_t size_hint) {
  std::string target(static_cast<size_t>(std::max<int64_t>(size_hint, 0)) + 4096, '\0');
  ssize_t n = ::readlinkat(dir_fd, name.c_str(), target.data(), target.size());
  if (n < 0) return fail_errno(errno, "read symbolic link {}", printable(name));
  target.resize(static_cast<size_t>(n));
  return target;
}

bool gone(const Error& e) { return e.sys_errno() == ENOENT || e.sys_errno() == ENOTDIR || e.sys_errno() == ELOOP; }

}  // namespace

class RoundSender {
 public:
  RoundSender(int root_fd, ArchiveWriter& out, const RoundOptions& options, const Cancel& cancel, Scan& scan)
      : root_fd_(root_fd), out_(out), options_(options), cancel_(cancel), scan_(scan), buffer_(kReadSize) {}

  Result<RoundStats> run(const ScanDiff& diff) {
    for (const auto& path : diff.deleted) {
      Entry e;
      e.kind = Entry::Kind::kDeleted;
      e.path = path;
      TS_TRY(out_.header(e));
      ++stats_.deletions;
    }
    for (uint32_t i = 0; i < diff.send.size(); ++i) {
      if (!diff.send[i]) continue;
      TS_TRY(cancel_.check());
      TS_TRY(send(i));
    }
    for (const auto& n : scan_.nodes_) stats_.unsettled += n.unsettled ? 1 : 0;
    Entry end;
    end.kind = Entry::Kind::kEnd;
    end.path = ".";
    end.count = stats_.entries + stats_.deletions;
    TS_TRY(out_.header(end));
    TS_TRY(out_.finish());
    return stats_;
  }

 private:
  // A name that is gone or was replaced stays in the scan as unsettled: the next round deletes it or sends what is
  // there.
  Result<> send(uint32_t index) {
    Node& node = scan_.nodes_[index];
    auto name = index == 0 ? std::string(".") : std::string(scan_.name(index));
    auto dir = parent_of(index);
    if (!dir && gone(dir.error())) return vanished(node, index);
    if (!dir) return std::unexpected(std::move(dir).error());
    Current now;
    now.seen_at_ns = wall_clock_ns();
    if (::fstatat(*dir, name.c_str(), &now.st, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno == ENOENT) return vanished(node, index);
      return fail_errno(errno, "read attributes of {}", printable(scan_.path(index)));
    }
    if (now.st.st_ino != node.inode || (now.st.st_mode & S_IFMT) != (node.mode & S_IFMT)) return vanished(node, index);
    auto sent = send_node(index, *dir, name, now);
    if (!sent && gone(sent.error())) return vanished(node, index);
    if (!sent) return std::unexpected(std::move(sent).error());
    ++stats_.entries;
    return {};
  }

  Result<> vanished(Node& node, uint32_t index) {
    if (options_.must_be_still)
      return fail(Errc::kUnavailable,
                  "{} changed while the container stood still: another process of this host writes there",
                  printable(scan_.path(index)));
    node.unsettled = true;
    return {};
  }

  Result<int> parent_of(uint32_t index) {
    uint32_t parent = scan_.nodes_[index].parent;
    if (!parent_.valid() || parent != parent_index_) {
      parent_.reset();
      TS_TRY_ASSIGN(parent_, open_dir_beneath(root_fd_, scan_.path(parent)));
      parent_index_ = parent;
    }
    return parent_.get();
  }

  Result<> send_node(uint32_t index, int dir, const std::string& name, const Current& now) {
    Node& node = scan_.nodes_[index];
    bool linked = !S_ISDIR(node.mode) && node.nlink > 1 && !is_whiteout(node.mode, node.rdev);
    if (auto first = linked ? sent_inodes_.find(node.inode) : sent_inodes_.end(); first != sent_inodes_.end()) {
      Entry e;
      e.kind = Entry::Kind::kHardLink;
      e.path = scan_.path(index);
      e.target = scan_.path(first->second);
      node = with_attributes(node, now.st, now.seen_at_ns);
      return out_.header(e);
    }
    Entry e;
    e.path = scan_.path(index);
    TS_TRY_ASSIGN(e.xattrs, read_xattrs(proc_path(dir, name)));
    fill(e, now.st);
    if (S_ISREG(e.mode)) {
      TS_TRY(send_file(index, dir, name, e));
    } else {
      if (S_ISLNK(e.mode)) {
        TS_TRY_ASSIGN(e.target, read_link(dir, name, now.st.st_size));
      }
      node = with_attributes(node, now.st, now.seen_at_ns);
      TS_TRY(out_.header(e));
    }
    if (linked) sent_inodes_.emplace(node.inode, index);
    return {};
  }

  static void fill(Entry& e, const struct stat& st) {
    e.mode = st.st_mode;
    e.uid = st.st_uid;
    e.gid = st.st_gid;
    e.rdev = st.st_rdev;
    e.size = st.st_size;
    e.atime = st.st_atim;
    e.mtime = st.st_mtim;
  }

  static Node with_attributes(Node node, const struct stat& st, int64_t seen_at_ns) {
    set_attributes(node, st, seen_at_ns);
    return node;
  }

  // O_PATH first: opening the name itself could be a device by now, and opening those has effects.
  Result<Fd> open_plain_file(int dir, const std::string& name, struct stat& st) {
    TS_TRY_ASSIGN(Fd path, open_at(dir, name, O_PATH | O_NOFOLLOW));
    if (::fstat(path.get(), &st) != 0) return fail_errno(errno, "read attributes of {}", printable(name));
    if (!S_ISREG(st.st_mode)) return fail_errno(ENOENT, "open {}", printable(name));
    auto by_fd = fmt::format("/proc/self/fd/{}", path.get());
    auto file = open_file(by_fd, O_RDONLY | O_NOATIME);
    if (!file && file.error().sys_errno() == EPERM) file = open_file(by_fd, O_RDONLY);
    return file;
  }

  // Only the attributes are in the upper directory; the contents are where overlay shows them.
  Result<Fd> open_in_merged(uint32_t index, Entry& e) {
    if (options_.merged_fd < 0) {
      return std::unexpected(
          Error(Errc::kKernelFeatureMissing, fmt::format("{} is in the container's layer with its attributes only "
                                                         "(overlay metacopy), its contents are in the image",
                                                         printable(e.path)))
              .with_remedy("remove metacopy=on from mountopt in storage.conf, and make the container again"));
    }
    auto path = scan_.path(index);
    auto [parent, name] = split_path(path);
    TS_TRY_ASSIGN(Fd dir, open_dir_beneath(options_.merged_fd, parent));
    struct stat st = {};
    TS_TRY_ASSIGN(Fd file, open_plain_file(dir.get(), std::string(name), st));
    e.size = st.st_size;
    e.xattrs.erase(std::string(kMetacopy));
    e.xattrs.erase(std::string(kRedirect));
    return file;
  }

  Result<> send_file(uint32_t index, int dir, const std::string& name, Entry& e) {
    Node& node = scan_.nodes_[index];
    struct stat before = {};
    int64_t seen_at = wall_clock_ns();
    TS_TRY_ASSIGN(Fd own, open_plain_file(dir, name, before));
    fill(e, before);
    Fd merged;
    if (e.xattrs.contains(std::string(kMetacopy))) {
      TS_TRY_ASSIGN(merged, open_in_merged(index, e));
    }
    int fd = merged.valid() ? merged.get() : own.get();
    TS_TRY_ASSIGN(auto extents, data_extents(fd, e.size));
    bool whole = extents.size() == 1 && extents[0].offset == 0 && extents[0].length == e.size;
    if (!whole) e.extents = extents;
    if (extents.empty() && e.size > 0) e.extents.push_back({0, 0});  // libarchive's way to say: one hole
    TS_TRY(out_.header(e));
    TS_TRY_CTX(send_contents(fd, e.size, extents), printable(e.path));
    struct stat after = {};
    if (::fstat(own.get(), &after) != 0) return fail_errno(errno, "read attributes of {}", printable(e.path));
    set_attributes(node, before, seen_at);
    if (same_file(before, after)) return {};
    if (options_.must_be_still) return vanished(node, index);
    node.unsettled = true;
    return {};
  }

  // Exactly `size` bytes whatever happens to the file: what is missing is zeros, and the file is sent again next time.
  Result<> send_contents(int fd, int64_t size, const std::vector<Extent>& extents) {
    int64_t at = 0;
    for (const auto& x : extents) {
      TS_TRY(out_.zeros(x.offset - at));
      TS_TRY(send_extent(fd, x));
      at = x.offset + x.length;
    }
    return out_.zeros(size - at);
  }

  Result<> send_extent(int fd, Extent x) {
    while (x.length > 0) {
      TS_TRY(cancel_.check());
      auto want = std::min(static_cast<size_t>(x.length), buffer_.size());
      ssize_t n = retry_eintr([&] { return ::pread(fd, buffer_.data(), want, x.offset); });
      if (n < 0) return fail_errno(errno, "read at {}", x.offset);
      if (n == 0) return out_.zeros(x.length);
      TS_TRY(out_.data(std::span(buffer_).first(static_cast<size_t>(n))));
      stats_.data_bytes += static_cast<uint64_t>(n);
      x.offset += n;
      x.length -= n;
    }
    return {};
  }

  int root_fd_;
  ArchiveWriter& out_;
  const RoundOptions& options_;
  const Cancel& cancel_;
  Scan& scan_;
  std::vector<std::byte> buffer_;
  Fd parent_;
  uint32_t parent_index_ = 0;
  std::unordered_map<uint64_t, uint32_t> sent_inodes_;  // of files with several names: the first that was sent
  RoundStats stats_;
};

Result<Scan> send_round(int root_fd, Writer& out, const Scan* previous, const RoundOptions& options,
                        const Cancel& cancel, RoundStats* stats) {
  auto looked = options.watch != nullptr ? options.watch->scan(previous, options.always_look, cancel)
                                         : scan_tree(root_fd, cancel);
  TS_TRY_ASSIGN(Scan scan, std::move(looked));
  auto diff = diff_scans(previous, scan, options.always_resend);
  TS_TRY_ASSIGN(auto writer, ArchiveWriter::create(out));
  TS_TRY_ASSIGN(RoundStats done, RoundSender(root_fd, *writer, options, cancel, scan).run(diff));
  if (stats != nullptr) *stats = done;
  return scan;
}

}  // namespace transship::storage
