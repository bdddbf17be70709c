#include "storage/watch/scan_update.h"

#include <dirent.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "storage/beneath.h"
#include "storage/scan_diff.h"

namespace transship::storage {
namespace {

constexpr uint32_t kNone = UINT32_MAX;
enum Look : uint8_t { kNot = 0, kItself = 1, kNames = 2 };

struct Found {
  std::string name;
  FileId id = 0;
  struct stat st = {};
  int64_t seen_at_ns = 0;
};

Result<std::vector<Found>> names_of(int dir_fd) {
  TS_TRY_ASSIGN(Fd own, open_at(dir_fd, ".", O_RDONLY | O_DIRECTORY));
  std::unique_ptr<DIR, int (*)(DIR*)> dir(::fdopendir(own.get()), ::closedir);
  if (!dir) return fail_errno(errno, "read a directory");
  (void)own.release();
  std::vector<Found> names;
  errno = 0;
  while (dirent* e = ::readdir(dir.get())) {
    std::string_view name = e->d_name;
    if (name != "." && name != "..") names.push_back({.name = std::string(name)});
    errno = 0;
  }
  if (errno != 0) return fail_errno(errno, "read a directory");
  std::ranges::sort(names, {}, &Found::name);
  return names;
}

}  // namespace

class ScanUpdate {
 public:
  ScanUpdate(int root_fd, const Scan* previous, const TreeChanges& changes, const Follow& follow, const Cancel& cancel)
      : root_fd_(root_fd), was_(previous), changes_(changes), follow_(follow), cancel_(cancel) {}

  Result<Scan> run() {
    TS_TRY(root());
    for (uint32_t i = 0; i < now_.nodes_.size(); ++i) {
      if (S_ISDIR(now_.nodes_[i].mode)) TS_TRY(read_directory(i));
      if (now_.nodes_.size() >= kNone) return fail(Errc::kRefused, "the tree has over 4 billion names");
    }
    drop_unused_names();
    return std::move(now_);
  }

  LookedAt& looked_at() { return looked_at_; }

 private:
  Result<> root() {
    TS_TRY_ASSIGN(NamedFile file, identify(root_fd_, ""));
    if (file.id == 0) return fail(Errc::kKernelFeatureMissing, "the file system gives no file handles");
    mount_id_ = file.mount_id;
    Found found{.name = {}, .id = file.id};
    follow_({&found.id, 1});
    found.seen_at_ns = wall_clock_ns();
    if (::fstatat(root_fd_, "", &found.st, AT_EMPTY_PATH) != 0)
      return fail_errno(errno, "read attributes of the root directory");
    if (was_ != nullptr && (was_->ids_.empty() || was_->ids_[0] != file.id)) was_ = nullptr;
    if (was_ != nullptr) {
      mark();
      now_.names_ = was_->names_;
      now_.nodes_.reserve(was_->nodes_.size() + 64);
      now_.ids_.reserve(was_->nodes_.size() + 64);
      from_.reserve(was_->nodes_.size() + 64);
    }
    add(found, 0, was_ == nullptr ? kNone : 0);
    return {};
  }

  // What of the previous scan is not good any more.
  void mark() {
    const auto& nodes = was_->nodes_;
    look_.assign(nodes.size(), kNot);
    for (size_t i = 0; i < nodes.size(); ++i) {
      FileId id = was_->ids_[i];
      bool names = S_ISDIR(nodes[i].mode) && changes_.names.contains(id);
      // The names of a directory are its contents.
      bool itself = names || id == 0 || nodes[i].unsettled || changes_.files.contains(id) ||
                    (!changes_.inodes.empty() && changes_.inodes.contains(nodes[i].inode));
      look_[i] = static_cast<uint8_t>((itself ? kItself : kNot) | (names ? kNames : kNot));
    }
  }

  Result<> read_directory(uint32_t index) {
    now_.nodes_[index].first_child = static_cast<uint32_t>(now_.nodes_.size());
    uint32_t from = from_[index];
    if (from != kNone && as_before(from)) {
      copy_children(index, from);
    } else {
      TS_TRY(cancel_.check());
      TS_TRY(look_into(index, from));
    }
    auto& node = now_.nodes_[index];
    node.child_count = static_cast<uint32_t>(now_.nodes_.size()) - node.first_child;
    if (node.child_count == 0) node.first_child = 0;
    return {};
  }

  bool as_before(uint32_t from) const {
    const Node& dir = was_->nodes_[from];
    auto children = std::span(look_).subspan(dir.first_child, dir.child_count);
    return (look_[from] & kNames) == 0 && std::ranges::all_of(children, [](uint8_t look) { return look == kNot; });
  }

  void copy_children(uint32_t index, uint32_t from) {
    const Node& dir = was_->nodes_[from];
    for (uint32_t c = dir.first_child; c < dir.first_child + dir.child_count; ++c) copy(index, c);
  }

  void copy(uint32_t parent, uint32_t child) {
    now_.nodes_.push_back(was_->nodes_[child]);
    Node& node = now_.nodes_.back();
    node.parent = parent;
    node.first_child = node.child_count = 0;
    now_.ids_.push_back(was_->ids_[child]);
    from_.push_back(child);
    live_names_ += node.name_length;
  }

  Result<> look_into(uint32_t index, uint32_t from) {
    auto path = now_.path(index);
    auto dir = open_dir_beneath(root_fd_, path, O_RDONLY | O_NOATIME);
    if (!dir && dir.error().sys_errno() == EPERM) dir = open_dir_beneath(root_fd_, path);
    if (!dir) {
      int e = dir.error().sys_errno();
      if (e == EXDEV) return {};  // a mount: not part of this tree
      if (e != ENOENT && e != ENOTDIR && e != ELOOP) return std::unexpected(std::move(dir).error());
      return moved_meanwhile(index);
    }
    TS_TRY_CTX(look_into_open(index, from, dir->get()), printable(path));
    return {};
  }

  Result<> look_into_open(uint32_t index, uint32_t from, int dir_fd) {
    // By its name something else may be found by now; names of one directory must not become another's.
    TS_TRY_ASSIGN(NamedFile file, identify(dir_fd, ""));
    if (file.id != now_.ids_[index]) return moved_meanwhile(index);
    auto changed = from == kNone ? changes_.names.end() : changes_.names.find(now_.ids_[index]);
    if (from == kNone || (changed != changes_.names.end() && changed->second.empty()))
      return all_names(index, from, dir_fd);
    static const std::set<std::string, std::less<>> kNothing;
    return changed_names(index, from, dir_fd, changed == changes_.names.end() ? kNothing : changed->second);
  }

  // Without an id it is looked at, and read, in the next update, whatever is heard of it until then.
  Result<> moved_meanwhile(uint32_t index) {
    now_.nodes_[index].unsettled = true;
    now_.ids_[index] = 0;
    return {};
  }

  Result<> all_names(uint32_t index, uint32_t from, int dir_fd) {
    TS_TRY_ASSIGN(auto names, names_of(dir_fd));
    std::vector<FileId> ids;
    std::vector<Found> found;
    for (auto& f : names) {
      TS_TRY_ASSIGN(bool there, identified(dir_fd, f));
      if (!there) continue;
      if (f.id != 0) ids.push_back(f.id);
      found.push_back(std::move(f));
    }
    follow_(ids);
    for (auto& f : found) {
      TS_TRY_ASSIGN(bool there, read_attributes(dir_fd, index, f));
      if (there) add(f, index, child_named(from, f.name));
    }
    return {};
  }

  Result<> changed_names(uint32_t index, uint32_t from, int dir_fd, const std::set<std::string, std::less<>>& names) {
    uint32_t c = was_->nodes_[from].first_child, end = c + was_->nodes_[from].child_count;
    auto name = names.begin();
    while (c < end || name != names.end()) {
      int order = c == end ? 1 : name == names.end() ? -1 : was_->name(c).compare(*name);
      if (order < 0 && look_[c] == kNot) {
        copy(index, c++);
        continue;
      }
      TS_TRY(look_at(index, dir_fd, order <= 0 ? std::string(was_->name(c)) : *name, order <= 0 ? c : kNone));
      if (order <= 0) ++c;
      if (order >= 0) ++name;
    }
    return {};
  }

  Result<> look_at(uint32_t parent, int dir_fd, std::string name, uint32_t was) {
    Found f{.name = std::move(name)};
    TS_TRY_ASSIGN(bool known, identified(dir_fd, f));
    if (!known) return {};
    if (f.id != 0) follow_({&f.id, 1});
    TS_TRY_ASSIGN(bool there, read_attributes(dir_fd, parent, f));
    if (there) add(f, parent, was);
    return {};
  }

  // False when it is gone. A mount is not followed: its file is on another file system, or is changed elsewhere.
  Result<bool> identified(int dir_fd, Found& f) const {
    auto file = identify(dir_fd, f.name.c_str());
    if (!file && file.error().sys_errno() == ENOENT) return false;
    if (!file) return std::unexpected(std::move(file).error().context(printable(f.name)));
    f.id = file->mount_id == mount_id_ ? file->id : 0;
    return true;
  }

  Result<bool> read_attributes(int dir_fd, uint32_t parent, Found& f) {
    ++looked_at_.names;
    f.seen_at_ns = wall_clock_ns();
    if (::fstatat(dir_fd, f.name.c_str(), &f.st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) != 0) {
      if (errno == ENOENT) return false;  // removed meanwhile
      return fail_errno(errno, "read attributes of {}", printable(f.name));
    }
    return !looks_like_crius(f.name, f.st) || (parent != 0 && now_.path(parent) != "tmp");
  }

  uint32_t child_named(uint32_t from, std::string_view name) const {
    if (from == kNone) return kNone;
    uint32_t low = was_->nodes_[from].first_child, end = low + was_->nodes_[from].child_count, high = end;
    while (low < high) {
      uint32_t middle = low + (high - low) / 2;
      if (was_->name(middle) < name)
        low = middle + 1;
      else
        high = middle;
    }
    return low < end && was_->name(low) == name ? low : kNone;
  }

  // `was`: what had this name before.
  void add(const Found& f, uint32_t parent, uint32_t was) {
    Node node;
    set_attributes(node, f.st, f.seen_at_ns);
    node.parent = parent;
    node.name_length = static_cast<uint8_t>(f.name.size());
    node.name_at = was == kNone ? now_.names_.size() : was_->nodes_[was].name_at;
    if (was == kNone) now_.names_ += f.name;
    live_names_ += f.name.size();
    if (S_ISREG(f.st.st_mode) && f.id != 0 && changes_.files.contains(f.id)) looked_at_.told.insert(f.st.st_ino);
    bool same = was != kNone && f.id != 0 && f.id == was_->ids_[was] && S_ISDIR(was_->nodes_[was].mode);
    now_.nodes_.push_back(node);
    now_.ids_.push_back(f.id);
    from_.push_back(same ? was : kNone);
  }

  void drop_unused_names() {
    constexpr size_t kSlack = 64U << 10;
    if (now_.names_.size() <= 2 * live_names_ + kSlack) return;
    std::string names;
    names.reserve(live_names_);
    for (auto& node : now_.nodes_) {
      std::string_view name = std::string_view(now_.names_).substr(node.name_at, node.name_length);
      node.name_at = names.size();
      names += name;
    }
    now_.names_ = std::move(names);
  }

  int root_fd_;
  const Scan* was_;
  const TreeChanges& changes_;
  const Follow& follow_;
  const Cancel& cancel_;
  int mount_id_ = 0;
  std::vector<uint8_t> look_;   // of the previous scan's nodes
  std::vector<uint32_t> from_;  // by node: which one of the previous scan it is when it is a directory
  uint64_t live_names_ = 0;
  LookedAt looked_at_;
  Scan now_;
};

Result<Scan> update_scan(int root_fd, const Scan* previous, const TreeChanges& changes, const Follow& follow,
                         const Cancel& cancel, LookedAt& looked_at) {
  ScanUpdate update(root_fd, previous, changes, follow, cancel);
  auto scan = update.run();
  looked_at = std::move(update.looked_at());
  return scan;
}

}  // namespace transship::storage
