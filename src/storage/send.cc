#include <sys/stat.h>

#include <unordered_map>

#include "storage/archive.h"
#include "storage/beneath.h"
#include "storage/scan_diff.h"
#include "storage/send_contents.h"
#include "storage/tree_delta.h"
#include "storage/watch/tree_watch.h"

namespace transship::storage {
namespace {

// What is known before the contents are read; nothing when the name is gone or is something else by now.
struct Current {
  struct stat st = {};
  int64_t seen_at_ns = 0;
};

bool same_file(const struct stat& a, const struct stat& b) {
  return a.st_ino == b.st_ino && a.st_size == b.st_size && to_ns(a.st_ctim) == to_ns(b.st_ctim) &&
         to_ns(a.st_mtim) == to_ns(b.st_mtim);
}

Result<std::string> read_link(int dir_fd, const std::string& name, int64_t size_hint) {
  std::string target(static_cast<size_t>(std::max<int64_t>(size_hint, 0)) + 4096, '\0');
  ssize_t n = ::readlinkat(dir_fd, name.c_str(), target.data(), target.size());
  if (n < 0 && errno == EINVAL) return fail_errno(ENOENT, "{} is no symbolic link any more", printable(name));
  if (n < 0) return fail_errno(errno, "read symbolic link {}", printable(name));
  target.resize(static_cast<size_t>(n));
  return target;
}

bool gone(const Error& e) { return e.sys_errno() == ENOENT || e.sys_errno() == ENOTDIR || e.sys_errno() == ELOOP; }

}  // namespace

class RoundSender {
 public:
  RoundSender(int root_fd, ArchiveWriter& out, const RoundOptions& options, const Cancel& cancel, Scan& scan)
      : root_fd_(root_fd),
        out_(out),
        options_(options),
        cancel_(cancel),
        scan_(scan),
        contents_(out, options, cancel, stats_) {}

  Result<RoundStats> run(const ScanDiff& diff) {
    struct stat root = {};
    if (::fstat(root_fd_, &root) != 0) return fail_errno(errno, "read attributes of the root directory");
    contents_.set_device(root.st_dev);
    for (const auto& path : diff.deleted) {
      if (options_.known != nullptr) options_.known->forget_tree(path);
      Entry e;
      e.kind = Entry::Kind::kDeleted;
      e.path = path;
      TS_TRY(out_.header(e));
      ++stats_.deletions;
    }
    find_patchable_names(diff);
    for (uint32_t i = 0; i < diff.send.size(); ++i) {
      if (!diff.send[i] || sent_early_.contains(i)) continue;
      TS_TRY(cancel_.check());
      TS_TRY(send_patchable_name_of(i));
      TS_TRY(send(i));
    }
    for (auto& n : scan_.nodes_) {
      if (!options_.must_be_still && S_ISREG(n.mode) && options_.always_resend.contains(n.inode)) n.unsettled = true;
      stats_.unsettled += n.unsettled ? 1 : 0;
    }
    Entry end;
    end.kind = Entry::Kind::kEnd;
    end.path = ".";
    end.count = stats_.entries + stats_.deletions;
    TS_TRY(out_.header(end));
    TS_TRY(out_.finish());
    return stats_;
  }

 private:
  // A file with several names is sent under one that the other side has, whichever comes first here, so that it can be
  // patched; the others are links to that.
  void find_patchable_names(const ScanDiff& diff) {
    if (options_.known == nullptr || options_.known->files() == 0) return;
    for (uint32_t i = 0; i < diff.send.size(); ++i) {
      const Node& n = scan_.nodes_[i];
      if (diff.send[i] && S_ISREG(n.mode) && n.nlink > 1 && n.size >= kLargeFile && options_.known->has(scan_.path(i)))
        patchable_.emplace(n.inode, i);
    }
  }

  Result<> send_patchable_name_of(uint32_t index) {
    if (patchable_.empty()) return {};
    auto found = patchable_.find(scan_.nodes_[index].inode);
    if (found == patchable_.end()) return {};
    uint32_t name = found->second;
    patchable_.erase(found);
    if (name == index) return {};
    sent_early_.insert(name);
    return send(name);
  }

  // What the other side has of that name is something else from here on.
  void forget(const Entry& e) {
    if (options_.known == nullptr) return;
    if (S_ISDIR(e.mode))
      options_.known->forget(e.path);
    else
      options_.known->forget_tree(e.path);
  }

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
      forget(e);
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
      forget(e);
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
    // Of what is only in the merged view nothing is remembered: its inode is another one.
    TS_TRY(contents_.send(merged.valid() ? merged.get() : own.get(), before, !merged.valid(), e));
    struct stat after = {};
    if (::fstat(own.get(), &after) != 0) return fail_errno(errno, "read attributes of {}", printable(e.path));
    set_attributes(node, before, seen_at);
    if (same_file(before, after)) return {};
    if (options_.must_be_still) return vanished(node, index);
    node.unsettled = true;
    return {};
  }

  int root_fd_;
  ArchiveWriter& out_;
  const RoundOptions& options_;
  const Cancel& cancel_;
  Scan& scan_;
  Fd parent_;
  uint32_t parent_index_ = 0;
  std::unordered_map<uint64_t, uint32_t> sent_inodes_;  // of files with several names: the first that was sent
  std::unordered_map<uint64_t, uint32_t> patchable_;    // of files with several names: one that the other side has
  std::unordered_set<uint32_t> sent_early_;
  RoundStats stats_;
  ContentSender contents_;
};

Result<Scan> send_round(int root_fd, Writer& out, const Scan* previous, const RoundOptions& options,
                        const Cancel& cancel, RoundStats* stats) {
  auto looked = options.watch != nullptr ? options.watch->scan(previous, options.always_look, cancel)
                                         : scan_tree(root_fd, cancel);
  TS_TRY_ASSIGN(Scan scan, std::move(looked));
  auto always = options.always_resend;
  always.insert(options.always_look.begin(), options.always_look.end());
  if (options.watch != nullptr) always.insert(options.watch->told().begin(), options.watch->told().end());
  auto diff = diff_scans(previous, scan, always);
  if (options.resend_root) diff.send[0] = true;
  TS_TRY_ASSIGN(auto writer, ArchiveWriter::create(out));
  auto done = RoundSender(root_fd, *writer, options, cancel, scan).run(diff);
  if (!done) {
    // How much of it has arrived is not known.
    if (options.known != nullptr) options.known->clear();
    return std::unexpected(std::move(done).error());
  }
  if (stats != nullptr) *stats = *done;
  return scan;
}

}  // namespace transship::storage
