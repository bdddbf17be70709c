#include "gate/small_tar.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "base/fd.h"

namespace transship::gate {
namespace {

constexpr size_t kBlock = 512;
constexpr size_t kStored = 65535;  // the longest block of deflate that is not compressed

// POSIX.1-1988's header with the extensions of POSIX.1-2001; numbers are octal text.
struct Header {
  char name[100];
  char mode[8];
  char uid[8];
  char gid[8];
  char size[12];
  char mtime[12];
  char checksum[8];
  char type;
  char link[100];
  char magic[6];
  char version[2];
  char user[32];
  char group[32];
  char major[8];
  char minor[8];
  char prefix[155];
  char rest[12];
};
static_assert(sizeof(Header) == kBlock);

struct Entry {
  std::string path;  // "./", "./dir/", "./file"
  char type = '0';
  mode_t mode = 0;
  uid_t uid = 0;
  gid_t gid = 0;
  int64_t mtime = 0;
  dev_t device = 0;
  std::string link;
  std::string content;
};

std::unexpected<Error> refuse(std::string_view why) { return fail(Errc::kRefused, "not a small archive: {}", why); }

// ---- numbers

template <size_t N>
bool put_octal(char (&field)[N], uint64_t value) {
  for (size_t i = N - 1; i-- > 0; value /= 8) field[i] = static_cast<char>('0' + value % 8);
  field[N - 1] = '\0';
  return value == 0;
}

template <size_t N>
std::optional<uint64_t> get_octal(const char (&field)[N]) {
  uint64_t value = 0;
  if (field[N - 1] != '\0') return std::nullopt;
  for (size_t i = 0; i + 1 < N; ++i) {
    if (field[i] < '0' || field[i] > '7') return std::nullopt;
    value = value * 8 + static_cast<uint64_t>(field[i] - '0');
  }
  return value;
}

uint32_t checksum(Header header) {
  std::memset(header.checksum, ' ', sizeof header.checksum);
  std::array<unsigned char, sizeof header> bytes;
  std::memcpy(bytes.data(), &header, sizeof header);
  uint32_t sum = 0;
  for (auto byte : bytes) sum += byte;
  return sum;
}

uint32_t crc32(std::string_view data) {
  uint32_t crc = 0xffffffff;
  for (char c : data) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xedb88320U : 0U);
  }
  return ~crc;
}

void put_le(std::string& out, uint32_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}

uint32_t get_le(std::string_view in, size_t at, int bytes) {
  uint32_t value = 0;
  for (int i = 0; i < bytes; ++i)
    value |= static_cast<uint32_t>(static_cast<unsigned char>(in[at + static_cast<size_t>(i)])) << (8 * i);
  return value;
}

// ---- gzip without compression

constexpr std::string_view kGzipHeader{"\x1f\x8b\x08\0\0\0\0\0\0\x03", 10};

std::string wrap(std::string_view data) {
  std::string out(kGzipHeader);
  for (size_t at = 0;;) {
    auto piece = data.substr(at, kStored);
    at += piece.size();
    bool last = at == data.size();
    out.push_back(last ? '\1' : '\0');
    put_le(out, static_cast<uint32_t>(piece.size()), 2);
    put_le(out, static_cast<uint32_t>(~piece.size()) & 0xffff, 2);
    out += piece;
    if (last) break;
  }
  put_le(out, crc32(data), 4);
  put_le(out, static_cast<uint32_t>(data.size()), 4);
  return out;
}

Result<std::string> unwrap(std::string_view in) {
  if (!in.starts_with(kGzipHeader)) return refuse("another kind of gzip stream");
  std::string out;
  size_t at = kGzipHeader.size();
  for (bool last = false; !last;) {
    if (in.size() < at + 5) return refuse("it ends in a block");
    uint32_t length = get_le(in, at + 1, 2);
    if ((in[at] & ~1) != 0 || (get_le(in, at + 3, 2) ^ 0xffff) != length) return refuse("it is compressed");
    last = in[at] == 1;
    at += 5;
    if (in.size() < at + length) return refuse("it ends in a block");
    out += in.substr(at, length);
    at += length;
  }
  if (in.size() != at + 8 || get_le(in, at, 4) != crc32(out)) return refuse("its checksum is wrong");
  return out;
}

// ---- reading a directory

class Collector {
 public:
  explicit Collector(dev_t file_system) : file_system_(file_system) {}
  Result<> add_directory(int fd, const std::string& path) {
    struct stat st{};
    if (::fstat(fd, &st) != 0) return fail_errno(errno, "look at {}", path);
    TS_TRY(add(fd, "", path, st));
    Fd own(::openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!own.valid()) return fail_errno(errno, "open {}", path);
    std::unique_ptr<DIR, int (*)(DIR*)> dir(::fdopendir(own.release()), ::closedir);
    if (!dir) return fail_errno(errno, "read {}", path);
    while (const dirent* e = ::readdir(dir.get())) {
      std::string name = e->d_name;
      if (name != "." && name != "..") TS_TRY(add_member(fd, path, name));
    }
    return {};
  }
  std::vector<Entry> entries;

 private:
  Result<> add_member(int parent, const std::string& path, const std::string& name) {
    struct stat st{};
    if (::fstatat(parent, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) return fail_errno(errno, "{}{}", path, name);
    // What is mounted there is not of this one: its place is kept, as tar --one-file-system does.
    bool elsewhere = st.st_dev != file_system_;
    if (!S_ISDIR(st.st_mode))
      return elsewhere ? Result<>(refuse("a file is mounted in it")) : add(parent, name, path + name, st);
    if (elsewhere) return refuse("a directory is mounted in it");
    Fd fd(::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd.valid()) return fail_errno(errno, "open {}{}", path, name);
    return add_directory(fd.get(), path + name + "/");
  }

  Result<> add(int parent, const std::string& name, const std::string& path, const struct stat& st) {
    Entry e{path, '0', st.st_mode & 07777U, st.st_uid, st.st_gid, st.st_mtim.tv_sec, 0, {}, {}};
    if (entries.size() == kSmallTarEntries || path.size() > sizeof(Header::name)) return refuse("too much in it");
    switch (st.st_mode & S_IFMT) {
      case S_IFDIR: e.type = '5'; break;
      case S_IFIFO: e.type = '6'; break;
      case S_IFCHR:
      case S_IFBLK:
        e.type = S_ISCHR(st.st_mode) ? '3' : '4';
        e.device = st.st_rdev;
        break;
      case S_IFLNK: TS_TRY(read_link(parent, name, e)); break;
      case S_IFREG: TS_TRY(read_file(parent, name, st, e)); break;
      default: return refuse("a socket is in it");
    }
    if (!S_ISDIR(st.st_mode) && st.st_nlink != 1) return refuse("a file with two names is in it");
    entries.push_back(std::move(e));
    return {};
  }

  static Result<> read_link(int parent, const std::string& name, Entry& e) {
    char target[sizeof(Header::link) + 1];
    ssize_t n = ::readlinkat(parent, name.c_str(), target, sizeof target);
    if (n < 0) return fail_errno(errno, "read the link {}", e.path);
    if (static_cast<size_t>(n) == sizeof target) return refuse("a long link is in it");
    e.type = '2';
    e.link.assign(target, static_cast<size_t>(n));
    return {};
  }

  Result<> read_file(int parent, const std::string& name, const struct stat& st, Entry& e) {
    bytes_ += static_cast<size_t>(st.st_size);
    if (bytes_ > kSmallTarBytes / 2) return refuse("too much in it");
    Fd fd(::openat(parent, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd.valid()) return fail_errno(errno, "open {}", e.path);
    e.content.resize(static_cast<size_t>(st.st_size));
    ssize_t n = ::read(fd.get(), e.content.data(), e.content.size());
    if (n != st.st_size) return refuse("a file in it changes");
    return {};
  }

  const dev_t file_system_;
  size_t bytes_ = 0;
};

Result<std::string> block_of(const Entry& e) {
  Header h{};
  std::memcpy(h.name, e.path.data(), e.path.size());
  std::memcpy(h.link, e.link.data(), e.link.size());
  bool fits = put_octal(h.mode, e.mode) && put_octal(h.uid, e.uid) && put_octal(h.gid, e.gid) &&
              put_octal(h.size, e.content.size()) && e.mtime >= 0 &&
              put_octal(h.mtime, static_cast<uint64_t>(e.mtime)) && put_octal(h.major, major(e.device)) &&
              put_octal(h.minor, minor(e.device));
  if (!fits) return refuse("a number that needs another format");
  h.type = e.type;
  std::memcpy(h.magic, "ustar", 6);
  std::memcpy(h.version, "00", 2);
  char sum[8] = {};
  (void)put_octal(sum, checksum(h));
  std::memcpy(h.checksum, sum + 1, 7);
  h.checksum[6] = '\0';
  h.checksum[7] = ' ';
  std::string block(kBlock, '\0');
  std::memcpy(block.data(), &h, kBlock);
  block += e.content;
  block.resize((block.size() + kBlock - 1) / kBlock * kBlock, '\0');
  return block;
}

// ---- making one

template <size_t N>
std::string text(const char (&field)[N]) {
  return {field, ::strnlen(field, N)};
}

// Names as make_small_tar() writes them: each once, and behind the directory that it is in. So nothing is made by way
// of a symbolic link, or in place of one, that came before it.
class Names {
 public:
  bool add(const Entry& e) {
    std::string_view name = e.path;
    bool directory = e.type == '5';
    if (directory != name.ends_with('/')) return false;
    if (directory) name.remove_suffix(1);
    auto slash = name.rfind('/');
    auto last = slash == std::string_view::npos ? name : name.substr(slash + 1);
    bool is_root = name == kRoot;
    bool known_place = slash != std::string_view::npos && directories_.contains(std::string(name.substr(0, slash)));
    if (!is_root && (last.empty() || last == "." || last == ".." || !known_place)) return false;
    if (directory) directories_.emplace(name);
    return names_.emplace(name).second;
  }

 private:
  static constexpr std::string_view kRoot = ".";
  std::set<std::string> names_;
  std::set<std::string> directories_ = {std::string(kRoot)};
};

Result<Entry> entry_of(const Header& h) {
  uint64_t sum = 0;
  for (int i = 0; i < 6; ++i) {
    if (h.checksum[i] < '0' || h.checksum[i] > '7') return refuse("a header without checksum");
    sum = sum * 8 + static_cast<uint64_t>(h.checksum[i] - '0');
  }
  auto mode = get_octal(h.mode), uid = get_octal(h.uid), gid = get_octal(h.gid), mtime = get_octal(h.mtime);
  auto major_number = get_octal(h.major), minor_number = get_octal(h.minor);
  if (sum != checksum(h) || !mode || !uid || !gid || !mtime || !major_number || !minor_number)
    return refuse("another kind of header");
  Entry e{text(h.name),
          h.type,
          static_cast<mode_t>(*mode & 07777U),
          static_cast<uid_t>(*uid),
          static_cast<gid_t>(*gid),
          static_cast<int64_t>(*mtime),
          makedev(static_cast<unsigned>(*major_number), static_cast<unsigned>(*minor_number)),
          text(h.link),
          {}};
  if (h.prefix[0] != '\0' || std::string_view("023456").find(e.type) == std::string_view::npos || h.type == '\0')
    return refuse("a name or a kind of file that we do not write");
  return e;
}

Result<std::vector<Entry>> parse(std::string_view tar) {
  std::vector<Entry> entries;
  Names names;
  for (size_t at = 0; at + kBlock <= tar.size();) {
    if (tar[at] == '\0') return entries;
    Header h;
    std::memcpy(&h, tar.data() + at, kBlock);
    TS_TRY_ASSIGN(Entry e, entry_of(h));
    if (!names.add(e)) return refuse("a name that we do not write, or not there");
    auto size = get_octal(h.size);
    at += kBlock;
    if (!size || *size > tar.size() - at || entries.size() == kSmallTarEntries) return refuse("too much in it");
    e.content = tar.substr(at, *size);
    at += (*size + kBlock - 1) / kBlock * kBlock;
    entries.push_back(std::move(e));
  }
  return refuse("it does not end");
}

Result<> create(int root, const Entry& e) {
  const char* path = e.path.c_str();
  int r = 0;
  switch (e.type) {
    case '5':
      r = ::mkdirat(root, path, 0700);
      if (r != 0 && errno == EEXIST) r = 0;
      break;
    case '2': r = ::symlinkat(e.link.c_str(), root, path); break;
    case '3': r = ::mknodat(root, path, S_IFCHR | 0600, e.device); break;
    case '4': r = ::mknodat(root, path, S_IFBLK | 0600, e.device); break;
    case '6': r = ::mknodat(root, path, S_IFIFO | 0600, 0); break;
    default: {
      Fd fd(::openat(root, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
      return fd.valid() ? write_all(fd.get(), e.content) : fail_errno(errno, "make {}", e.path);
    }
  }
  return r == 0 ? Result<>{} : Result<>(fail_errno(errno, "make {}", e.path));
}

Result<> dress(int root, const Entry& e) {
  const char* path = e.path.c_str();
  timespec times[2] = {{e.mtime, 0}, {e.mtime, 0}};
  if (::fchownat(root, path, e.uid, e.gid, AT_SYMLINK_NOFOLLOW) != 0) return fail_errno(errno, "owner of {}", e.path);
  if (e.type != '2' && ::fchmodat(root, path, e.mode, 0) != 0) return fail_errno(errno, "mode of {}", e.path);
  if (::utimensat(root, path, times, AT_SYMLINK_NOFOLLOW) != 0) return fail_errno(errno, "times of {}", e.path);
  return {};
}

}  // namespace

Result<std::string> make_small_tar(int directory) {
  struct stat st{};
  if (::fstat(directory, &st) != 0) return fail_errno(errno, "look at the directory");
  Collector collector(st.st_dev);
  TS_TRY(collector.add_directory(directory, "./"));
  std::string tar;
  for (const auto& e : collector.entries) {
    TS_TRY_ASSIGN(std::string block, block_of(e));
    tar += block;
  }
  tar.append(2 * kBlock, '\0');
  return wrap(tar);
}

Result<> unpack_small_tar(std::string_view archive, int directory) {
  TS_TRY_ASSIGN(std::string tar, unwrap(archive));
  TS_TRY_ASSIGN(auto entries, parse(tar));
  for (const auto& e : entries) TS_TRY(create(directory, e));
  // Inside out: what is made in a directory changes its times.
  for (auto e = entries.rbegin(); e != entries.rend(); ++e) TS_TRY(dress(directory, *e));
  return {};
}

}  // namespace transship::gate
