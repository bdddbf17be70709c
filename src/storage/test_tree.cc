#include "storage/test_tree.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "base/text.h"
#include "base/thread.h"
#include "storage/beneath.h"
#include "storage/xattr.h"
#include "sys/file.h"

namespace transship::storage::testing {

namespace fs = std::filesystem;

TempDir::TempDir() {
  std::string pattern = fs::temp_directory_path() / "transship-storage-XXXXXX";
  TS_CHECK(::mkdtemp(pattern.data()) != nullptr, "mkdtemp {}", pattern);
  path_ = pattern;
  auto fd = open_file(path_, O_RDONLY | O_DIRECTORY);
  TS_CHECK(fd, "open {}", path_);
  fd_ = std::move(*fd);
}

TempDir::~TempDir() {
  for (const auto& entry : fs::directory_iterator(path_)) {
    if (auto r = remove_beneath(fd_.get(), entry.path().filename()); !r) ADD_FAILURE() << r.error().message();
  }
  if (::rmdir(path_.c_str()) != 0) ADD_FAILURE() << "rmdir " << path_ << ": " << errno_text(errno);
}

Cancel never() {
  auto c = Cancel::create();
  TS_CHECK(c);
  return *c;
}

void write_text(const std::string& path, std::string_view text) {
  auto fd = open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  ASSERT_TRUE(fd) << fd.error().message();
  auto r = write_all(fd->get(), text);
  ASSERT_TRUE(r) << r.error().message();
}

void settle() { ::usleep(22'000); }  // 20 ms are in question (set_attributes)

namespace {

std::string hash_of(const std::string& path, int64_t& holes) {
  auto fd = open_file(path, O_RDONLY | O_NOFOLLOW | O_NOATIME);
  if (!fd) fd = open_file(path, O_RDONLY | O_NOFOLLOW);
  if (!fd) return fd.error().message();
  uint64_t hash = 1469598103934665603ULL;
  std::vector<std::byte> buffer(1 << 20);
  int64_t at = 0;
  holes = 0;
  while (true) {  // data only: terabytes of hole must not take hours
    off_t data = ::lseek(fd->get(), at, SEEK_DATA);
    if (data < 0) break;
    off_t end = ::lseek(fd->get(), data, SEEK_HOLE);
    ++holes;
    for (off_t i = data; i < end;) {
      ssize_t n = ::pread(fd->get(), buffer.data(), std::min<size_t>(buffer.size(), static_cast<size_t>(end - i)), i);
      if (n <= 0) return "unreadable";
      for (ssize_t b = 0; b < n; ++b) {
        auto byte = static_cast<uint64_t>(buffer[static_cast<size_t>(b)]);
        if (byte != 0) hash = (hash ^ byte ^ static_cast<uint64_t>(i + b) * 31) * 1099511628211ULL;
      }
      i += n;
    }
    at = end;
  }
  return fmt::format("{:016x}", hash);
}

std::string kind_details(const std::string& path, const struct stat& st) {
  if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)) return fmt::format(" {}:{}", major(st.st_rdev), minor(st.st_rdev));
  if (S_ISLNK(st.st_mode)) return " -> " + printable(fs::read_symlink(path).string());
  if (!S_ISREG(st.st_mode)) return "";
  int64_t extents = 0;
  auto hash = hash_of(path, extents);
  return fmt::format(" {} bytes {} extents={} blocks={}", st.st_size, hash, extents, st.st_blocks);
}

// `path`: how to reach it; `relative`: its name in the tree.
std::string node_line(const std::string& path, const std::string& relative, std::map<ino_t, std::string>& first_names) {
  struct stat st = {};
  if (::lstat(path.c_str(), &st) != 0) return relative + " unreadable";
  auto shown = relative.size() > 180 ? printable(relative) + hex(relative.substr(180)) : printable(relative);
  auto line = fmt::format("{} {:o} {}:{} mtime={}.{:09}", shown, st.st_mode, st.st_uid, st.st_gid, st.st_mtim.tv_sec,
                          st.st_mtim.tv_nsec);
  line += kind_details(path, st);
  // Reading a directory or a link changes its access time: the comparison itself would be seen.
  if (!S_ISDIR(st.st_mode) && !S_ISLNK(st.st_mode))
    line += fmt::format(" atime={}.{:09}", st.st_atim.tv_sec, st.st_atim.tv_nsec);
  if (!S_ISDIR(st.st_mode) && !(S_ISCHR(st.st_mode) && st.st_rdev == 0)) {
    auto first = first_names.try_emplace(st.st_ino, relative).first->second;
    line += fmt::format(" nlink={} link-of={}", st.st_nlink, printable(first));
  }
  auto xattrs = read_xattrs(path);
  if (!xattrs) return line + " " + xattrs.error().message();
  for (const auto& [name, value] : *xattrs) line += fmt::format(" {}={}", printable(name), hex(value));
  return line;
}

struct Description {
  int root_fd;
  std::vector<std::string> lines;
  std::map<ino_t, std::string> first_names;

  void directory(const std::string& relative) {
    auto dir = open_dir_beneath(root_fd, relative);  // a path may be longer than the kernel takes at once
    ASSERT_TRUE(dir) << dir.error().message();
    if (relative == ".") lines.push_back(node_line(proc_path(dir->get(), "."), ".", first_names));
    std::vector<std::string> here;
    for (const auto& e : fs::directory_iterator(proc_path(dir->get(), "."))) here.push_back(e.path().filename());
    std::ranges::sort(here);
    for (const auto& n : here) {
      auto name = relative == "." ? n : relative + "/" + n;
      auto path = proc_path(dir->get(), n);
      lines.push_back(node_line(path, name, first_names));
      if (fs::is_directory(fs::symlink_status(path))) directory(name);
    }
  }
};

}  // namespace

std::vector<std::string> describe(const std::string& root) {
  auto fd = open_file(root, O_RDONLY | O_DIRECTORY);
  TS_CHECK(fd, "open {}", root);
  Description d{fd->get(), {}, {}};
  d.directory(".");
  return d.lines;
}

namespace {

void sparse_file(const std::string& path, int64_t size, const std::vector<int64_t>& data_at) {
  auto fd = open_file(path, O_WRONLY | O_CREAT, 0600);
  ASSERT_TRUE(fd);
  for (int64_t at : data_at) ASSERT_EQ(::pwrite(fd->get(), "data in a hole", 14, at), 14);
  ASSERT_EQ(::ftruncate(fd->get(), size), 0);
}

void set_times(const std::string& path, int64_t seconds, int64_t ns) {
  timespec t[2] = {{seconds + 5, ns}, {seconds, ns}};
  ASSERT_EQ(::utimensat(AT_FDCWD, path.c_str(), t, AT_SYMLINK_NOFOLLOW), 0);
}

void make_socket(const std::string& path) {
  Fd s(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un a = {};
  a.sun_family = AF_UNIX;
  ASSERT_LT(path.size(), sizeof a.sun_path);
  path.copy(a.sun_path, path.size());
  ASSERT_EQ(::bind(s.get(), reinterpret_cast<sockaddr*>(&a), sizeof a), 0);
}

void make_names(const std::string& root) {
  fs::create_directories(root + "/names");
  for (int c = 1; c < 256; ++c) {
    if (c == '/') continue;
    std::string name = "b";
    name += static_cast<char>(c);
    write_text(root + "/names/" + name, name);
    name += name;
    ASSERT_EQ(::symlink(name.c_str(), (root + "/names/" + name + "l").c_str()), 0);
  }
  write_text(root + "/names/two\nlines\n", "newline");
  write_text(root + "/names/\xff\xfe\xc3\x28", "not utf-8");
  write_text(root + "/names/" + std::string(255, '\xe9'), "longest");
  write_text(root + "/names/._mac", "not a resource fork");
  write_text(root + "/names/..dots", "dots");
  write_text(root + "/names/ end ", "blanks");
}

void make_deep_path(int root_fd) {
  Fd dir(::openat(root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (int i = 0; i < 40; ++i) {  // 40 * 130 bytes: longer than PATH_MAX
    auto name = std::string(128, 'd') + std::to_string(i);
    ASSERT_EQ(::mkdirat(dir.get(), name.c_str(), 0755), 0);
    dir = Fd(::openat(dir.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    ASSERT_TRUE(dir.valid());
  }
  Fd leaf(::openat(dir.get(), "leaf", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_TRUE(leaf.valid());
  ASSERT_EQ(::write(leaf.get(), "deep", 4), 4);
}

// Version 2, effective, cap_net_bind_service; POSIX ACL with a named user. Both as the kernel has them.
const std::string kCapability("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 20);
const std::string kAcl(
    "\x02\x00\x00\x00"
    "\x01\x00\x06\x00\xff\xff\xff\xff"
    "\x02\x00\x07\x00\xe8\x03\x00\x00"
    "\x04\x00\x04\x00\xff\xff\xff\xff"
    "\x10\x00\x07\x00\xff\xff\xff\xff"
    "\x20\x00\x00\x00\xff\xff\xff\xff",
    44);

class Attributes {
 public:
  explicit Attributes(std::string root, std::vector<std::string>& missing)
      : root_(std::move(root)), missing_(missing) {}
  void set(const std::string& name, const std::string& attribute, const std::string& value) {
    if (::lsetxattr((root_ + "/" + name).c_str(), attribute.c_str(), value.data(), value.size(), 0) != 0)
      missing_.push_back(fmt::format("{} on {}: {}", attribute, name, errno_text(errno)));
  }
  void node(const std::string& name, mode_t mode, dev_t device) {
    if (::mknod((root_ + "/" + name).c_str(), mode, device) != 0)
      missing_.push_back(fmt::format("{} (mode {:o}): {}", name, mode, errno_text(errno)));
  }
  void own(const std::string& name, uid_t uid, gid_t gid) {
    if (::lchown((root_ + "/" + name).c_str(), uid, gid) != 0)
      missing_.push_back(fmt::format("owner of {}: {}", name, errno_text(errno)));
  }

 private:
  std::string root_;
  std::vector<std::string>& missing_;
};

}  // namespace

std::vector<std::string> make_nasty_tree(const std::string& root) {
  std::vector<std::string> missing;
  Attributes a(root, missing);
  make_names(root);
  fs::create_directories(root + "/empty/er");
  fs::create_directories(root + "/links/sub");
  write_text(root + "/links/z-first", "shared by three names");
  (void)!::link((root + "/links/z-first").c_str(), (root + "/links/a-second").c_str());
  (void)!::link((root + "/links/z-first").c_str(), (root + "/links/sub/third").c_str());
  EXPECT_EQ(::symlink("../does/not/exist", (root + "/dangling").c_str()), 0);
  EXPECT_EQ(::link((root + "/dangling").c_str(), (root + "/dangling-too").c_str()), 0);
  EXPECT_EQ(::symlink(std::string(4000, 'x').c_str(), (root + "/long-target").c_str()), 0);
  EXPECT_EQ(::mkfifo((root + "/fifo").c_str(), 0620), 0);
  make_socket(root + "/sock");
  sparse_file(root + "/all-hole", 5'000'000, {});
  sparse_file(root + "/ends-in-hole", 3'000'000, {0});
  sparse_file(root + "/islands", 20'000'003, {8192, 4'000'000, 19'999'980});
  sparse_file(root + "/beyond-8-gib", (9LL << 30) + 17, {0, 9LL << 30});
  write_text(root + "/empty-file", "");
  write_text(root + "/zeros", std::string(100'000, '\0'));
  write_text(root + "/big", std::string(3'000'001, 'B'));
  a.own("big", 3'000'000'000U, 65'534);
  write_text(root + "/suid", "suid");
  a.own("suid", 1000, 1001);
  EXPECT_EQ(::chmod((root + "/suid").c_str(), 06755), 0);
  write_text(root + "/no-permissions", "hidden");
  EXPECT_EQ(::chmod((root + "/no-permissions").c_str(), 0), 0);
  fs::create_directory(root + "/sticky");
  EXPECT_EQ(::chmod((root + "/sticky").c_str(), 01777), 0);
  a.own("dangling", 12, 34);
  write_text(root + "/capable", "cap");
  a.set("capable", "security.capability", kCapability);
  a.set("big", "user.note", std::string("any\0bytes\n=\xff", 12));
  a.set("big", "user.empty", "");
  a.set("big", "user.odd=name\n\xff", "odd");
  a.set("sticky", "system.posix_acl_access", kAcl);
  fs::create_directory(root + "/inheriting");
  a.set("inheriting", "system.posix_acl_default", kAcl);
  write_text(root + "/inheriting/child", "has an ACL of its own making");
  fs::create_directory(root + "/opaque");
  a.set("opaque", "trusted.overlay.opaque", "y");
  a.set("empty", "trusted.overlay.redirect", "/elsewhere");
  a.node("whiteout", S_IFCHR, 0);
  a.node("links/whiteout", S_IFCHR, 0);
  a.node("null", S_IFCHR | 0666, makedev(1, 3));
  a.node("disk", S_IFBLK | 0660, makedev(259, 1 << 17));
  set_times(root + "/suid", 1'000'000'007, 123'456'789);
  set_times(root + "/dangling", 5, 1);
  set_times(root + "/zeros", -86'400, 999'999'999);
  set_times(root + "/fifo", 4'102'444'800, 7);
  set_times(root + "/empty", 1'111'111'111, 111'111'111);
  auto fd = open_file(root, O_RDONLY | O_DIRECTORY);
  TS_CHECK(fd);
  make_deep_path(fd->get());
  set_times(root, 1'222'222'222, 222'222'222);
  return missing;
}

Result<Scan> move_round(int from_fd, const TempDir& to, const Scan* previous, const RoundOptions& options,
                        RoundStats* stats, const ApplyLimits& limits) {
  auto cancel = never();
  TS_TRY_ASSIGN(auto pipe, StreamPipe::create(cancel, milliseconds(20'000)));
  Result<> applied;
  Thread applier("apply", [&] {
    applied = apply_round(to.fd(), *pipe, limits, cancel);
    if (!applied) pipe->fail_writer(applied.error());
  });
  auto sent = send_round(from_fd, *pipe, previous, options, cancel, stats);
  if (sent)
    pipe->finish();
  else
    pipe->fail_reader(sent.error());
  applier.join();
  TS_TRY(applied);
  return sent;
}

}  // namespace transship::storage::testing
