#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <unordered_map>

#include "storage/apply_patch.h"
#include "storage/archive.h"
#include "storage/beneath.h"
#include "storage/scan_diff.h"
#include "storage/tree_delta.h"

namespace transship::storage {
namespace {

struct Times {
  timespec atime = {};
  timespec mtime = {};
};

constexpr std::string_view kDiskFull =
    "free space where the destination's containers are stored, or give the move another host";

Result<> allowed_xattr(const Entry& e, const std::string& name) {
  constexpr std::array<std::string_view, 3> kPrefixes = {"user.", "trusted.", "security."};
  bool known = name == "system.posix_acl_access" || name == "system.posix_acl_default" ||
               std::ranges::any_of(kPrefixes, [&](auto p) { return name.starts_with(p); });
  if (!known || name == kMetacopy || !xattr_travels(name))
    return hostile(e.path, fmt::format("has the extended attribute {}", printable(name)));
  return {};
}

// A full disk is the one failure that the user can mend: it says so.
std::unexpected<Error> explained(Error error, std::string_view path) {
  bool full = error.code() == Errc::kNoSpace && error.remedy().empty();
  auto e = std::move(error).context(printable(path));
  if (full) return std::unexpected(std::move(e).with_remedy(std::string(kDiskFull)));
  return std::unexpected(std::move(e));
}

}  // namespace

class RoundApplier {
 public:
  RoundApplier(int root_fd, ArchiveReader& in, const ApplyLimits& limits, const Cancel& cancel)
      : root_fd_(root_fd), in_(in), limits_(limits), cancel_(cancel) {}

  Result<ApplyStats> run() {
    while (true) {
      TS_TRY(cancel_.check());
      TS_TRY_ASSIGN(auto entry, in_.next(limits_.max_xattr_bytes));
      if (!entry) return fail(Errc::kPeerProtocol, "the file stream was cut: its last entry is missing");
      if (entry->kind == Entry::Kind::kEnd) return finish(*entry);
      if (auto r = apply(*entry); !r) return explained(std::move(r).error(), entry->path);
    }
  }

 private:
  Result<ApplyStats> finish(const Entry& end) {
    if (end.count != stats_.entries + stats_.deletions)
      return fail(Errc::kPeerProtocol, "the file stream holds {} entries, its source says {}",
                  stats_.entries + stats_.deletions, end.count);
    TS_TRY_ASSIGN(auto more, in_.next(limits_.max_xattr_bytes));
    if (more) return fail(Errc::kPeerProtocol, "the file stream goes on after its last entry");
    TS_TRY(in_.drain());
    TS_TRY(restore_directory_times());
    return stats_;
  }

  Result<> apply(const Entry& e) {
    TS_TRY(check(e));
    if (e.kind == Entry::Kind::kDeleted) {
      ++stats_.deletions;
      return remove(e.path);
    }
    ++stats_.entries;
    if (e.path == ".") return set_attributes_of(root_fd_, ".", e);
    auto [parent, name_view] = split_path(e.path);
    std::string name(name_view);
    TS_TRY_ASSIGN(int dir, parent_fd(parent));
    if (e.kind == Entry::Kind::kPatch) {
      TS_TRY_ASSIGN(uint64_t n, apply_patch(dir, name, e, in_, limits_.max_bytes - stats_.data_bytes, cancel_));
      stats_.data_bytes += n;
      return set_attributes_of(dir, name, e);
    }
    TS_TRY(make_room(dir, name, e));
    if (e.kind == Entry::Kind::kHardLink) return link(e, dir, name);
    if (S_ISREG(e.mode)) {
      TS_TRY(make_file(e, dir, name));
    } else {
      TS_TRY(make_other(e, dir, name));
    }
    return set_attributes_of(dir, name, e);
  }

  Result<> check(const Entry& e) {
    if (stats_.entries + stats_.deletions >= limits_.max_entries)
      return fail(Errc::kNoSpace, "over {} entries", limits_.max_entries);
    bool root = e.path == ".";
    if (root && (!S_ISDIR(e.mode) || e.kind != Entry::Kind::kNode)) return hostile(e.path, "is not a directory");
    if (!root && !is_clean_path(e.path)) return hostile(e.path, "is no name below the root");
    if (e.path.size() > limits_.max_path) return hostile(e.path, "is too long a name");
    if (e.kind == Entry::Kind::kHardLink && !is_clean_path(e.target))
      return hostile(e.target, "is no name below the root");
    if (S_ISREG(e.mode) && (e.size < 0 || static_cast<uint64_t>(e.size) > limits_.max_file_size))
      return fail(Errc::kNoSpace, "its size of {} bytes is over the limit", e.size);
    bool patch = e.kind == Entry::Kind::kPatch;
    if (patch && !S_ISREG(e.mode)) return hostile(e.path, "is a patch and no plain file");
    if (patch && static_cast<uint64_t>(e.patch.size) > limits_.max_file_size)
      return fail(Errc::kNoSpace, "its size of {} bytes is over the limit", e.patch.size);
    bool device = S_ISBLK(e.mode) || (S_ISCHR(e.mode) && !is_whiteout(e.mode, e.rdev));
    if (device && e.kind == Entry::Kind::kNode && !limits_.allow_devices) return hostile(e.path, "is a device");
    for (const auto& [name, value] : e.xattrs) TS_TRY(allowed_xattr(e, name));
    return {};
  }

  // Neighbours come one after another: the last directory stays open.
  Result<int> parent_fd(std::string_view path) {
    if (parent_.valid() && parent_path_ == path) return parent_.get();
    parent_.reset();
    auto opened = open_dir_beneath(root_fd_, path);
    if (!opened && opened.error().sys_errno() == ENOENT) {
      TS_TRY(make_parents(path));
      opened = open_dir_beneath(root_fd_, path);
    }
    if (!opened && (opened.error().sys_errno() == ELOOP || opened.error().sys_errno() == ENOTDIR))
      return hostile(path, "leads through something that is not a directory");
    if (!opened) return std::unexpected(std::move(opened).error());
    struct stat st = {};
    if (::fstat(opened->get(), &st) != 0) return fail_errno(errno, "read attributes of {}", printable(path));
    directory_times_.try_emplace(std::string(path), Times{st.st_atim, st.st_mtim});
    parent_ = std::move(*opened);
    parent_path_ = path;
    return parent_.get();
  }

  // A directory that was replaced while the source read it: the next round brings its attributes.
  Result<> make_parents(std::string_view path) {
    for (size_t end = path.find('/');; end = path.find('/', end + 1)) {
      auto [parent, name] = split_path(path.substr(0, end));
      TS_TRY_ASSIGN(Fd dir, open_dir_beneath(root_fd_, parent));
      if (::mkdirat(dir.get(), std::string(name).c_str(), 0700) != 0 && errno != EEXIST)
        return fail_errno(errno, "make directory {}", printable(name));
      if (end == std::string_view::npos) return {};
    }
  }

  Result<> remove(const std::string& path) {
    auto [parent, name] = split_path(path);
    parent_.reset();  // may be below what goes
    auto existing = open_dir_beneath(root_fd_, parent);
    if (!existing && existing.error().sys_errno() == ENOENT) return {};
    TS_TRY_ASSIGN(int dir, parent_fd(parent));
    return remove_beneath(dir, std::string(name));
  }

  // Whatever has the name goes, except a directory where a directory is wanted.
  Result<> make_room(int dir, const std::string& name, const Entry& e) {
    struct stat st = {};
    if (::fstatat(dir, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno == ENOENT) return {};
      return fail_errno(errno, "look for an earlier file");
    }
    if (S_ISDIR(st.st_mode) && S_ISDIR(e.mode) && e.kind == Entry::Kind::kNode) return {};
    return remove_beneath(dir, name);
  }

  Result<> link(const Entry& e, int dir, const std::string& name) {
    auto [parent, target] = split_path(e.target);
    auto from = open_dir_beneath(root_fd_, parent, O_PATH);
    if (!from) return hostile(e.target, "is the target of a hard link and cannot be reached below the root");
    if (::linkat(from->get(), std::string(target).c_str(), dir, name.c_str(), 0) != 0)
      return fail_errno(errno, "make a hard link to {}", printable(e.target));
    return {};
  }

  Result<> make_file(const Entry& e, int dir, const std::string& name) {
    TS_TRY_ASSIGN(Fd file, open_at(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
    while (true) {
      TS_TRY_ASSIGN(auto block, in_.block());
      if (!block) break;
      TS_TRY(cancel_.check());
      auto size = static_cast<int64_t>(block->bytes.size());
      if (block->offset < 0 || block->offset > e.size || size > e.size - block->offset)
        return hostile(e.path, "has contents beyond its size");
      if (block->bytes.size() > limits_.max_bytes - stats_.data_bytes)
        return fail(Errc::kNoSpace, "the round is larger than {} bytes", limits_.max_bytes);
      TS_TRY(write_at(file.get(), block->bytes, block->offset));
      stats_.data_bytes += block->bytes.size();
    }
    // Holes were not written; one at the end is only there in the size.
    if (::ftruncate(file.get(), e.size) != 0) return fail_errno(errno, "set its size to {}", e.size);
    return {};
  }

  static Result<> make_other(const Entry& e, int dir, const std::string& name) {
    int r = 0;
    if (S_ISDIR(e.mode)) {
      r = ::mkdirat(dir, name.c_str(), 0700);
      if (r != 0 && errno == EEXIST) r = 0;  // make_room left it there
    } else if (S_ISLNK(e.mode)) {
      r = ::symlinkat(e.target.c_str(), dir, name.c_str());
    } else if (S_ISCHR(e.mode) || S_ISBLK(e.mode) || S_ISFIFO(e.mode) || S_ISSOCK(e.mode)) {
      r = ::mknodat(dir, name.c_str(), (e.mode & S_IFMT) | 0600, e.rdev);
    } else {
      return hostile(e.path, "is of an unknown type");
    }
    if (r != 0) return fail_errno(errno, "make it");
    return {};
  }

  // Owner first: it takes away capabilities and set-user-id. Mode after the ACL: both set the group's bits.
  Result<> set_attributes_of(int dir, const std::string& name, const Entry& e) {
    if (::fchownat(dir, name.c_str(), static_cast<uid_t>(e.uid), static_cast<gid_t>(e.gid), AT_SYMLINK_NOFOLLOW) != 0)
      return fail_errno(errno, "set owner {}:{}", e.uid, e.gid);
    TS_TRY(replace_xattrs(proc_path(dir, name), e.xattrs));
    if (!S_ISLNK(e.mode)) TS_TRY(set_mode(dir, name, e.mode & 07777U));
    if (S_ISDIR(e.mode)) {
      directory_times_.insert_or_assign(e.path, Times{e.atime, e.mtime});
      return {};
    }
    return set_times(dir, name, {e.atime, e.mtime});
  }

  // fchmodat() would follow a symbolic link that has taken the name since, to wherever it leads.
  static Result<> set_mode(int dir, const std::string& name, mode_t mode) {
    TS_TRY_ASSIGN(Fd file, open_at(dir, name, O_PATH | O_NOFOLLOW));
    struct stat st = {};
    if (::fstat(file.get(), &st) != 0) return fail_errno(errno, "look at it");
    if (S_ISLNK(st.st_mode)) return hostile(name, "has become a symbolic link");
    if (::chmod(fmt::format("/proc/self/fd/{}", file.get()).c_str(), mode) != 0)
      return fail_errno(errno, "set mode {:o}", mode);
    return {};
  }

  static Result<> set_times(int dir, const std::string& name, const Times& t) {
    std::array<timespec, 2> times = {t.atime, t.mtime};
    if (::utimensat(dir, name.c_str(), times.data(), AT_SYMLINK_NOFOLLOW) != 0) return fail_errno(errno, "set times");
    return {};
  }

  // Last: every change inside a directory changes its own time.
  Result<> restore_directory_times() {
    parent_.reset();
    for (const auto& [path, times] : directory_times_) {
      auto dir = open_dir_beneath(root_fd_, path);
      int e = dir ? 0 : dir.error().sys_errno();
      if (e == ENOENT || e == ENOTDIR || e == ELOOP) continue;  // replaced by something else later in this round
      if (!dir) return std::unexpected(std::move(dir).error());
      if (auto r = set_times(dir->get(), ".", times); !r) return explained(std::move(r).error(), path);
    }
    return {};
  }

  int root_fd_;
  ArchiveReader& in_;
  const ApplyLimits& limits_;
  const Cancel& cancel_;
  Fd parent_;
  std::string parent_path_;
  std::unordered_map<std::string, Times> directory_times_;
  ApplyStats stats_;
};

Result<> apply_round(int root_fd, Reader& in, const ApplyLimits& limits, const Cancel& cancel, ApplyStats* stats) {
  TS_TRY_ASSIGN(auto reader, ArchiveReader::create(in));
  TS_TRY_ASSIGN(ApplyStats done, RoundApplier(root_fd, *reader, limits, cancel).run());
  if (stats != nullptr) *stats = done;
  return {};
}

}  // namespace transship::storage
