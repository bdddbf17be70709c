#include "sys/file.h"

#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/fd.h"
#include "base/text.h"

namespace transship::sys {

Result<std::string> read_file(const std::string& path, size_t limit) {
  TS_TRY_ASSIGN(Fd fd, open_file(path, O_RDONLY));
  std::string content;
  std::string buffer(65536, '\0');
  while (true) {
    auto n = read_some(fd.get(), std::as_writable_bytes(std::span(buffer)));
    if (!n) return std::unexpected(std::move(n).error().context(path));
    if (*n == 0) return content;
    content.append(buffer, 0, *n);
    if (content.size() > limit) return fail(Errc::kCorrupt, "{} is longer than {} bytes", path, limit);
  }
}

Result<> write_file_atomic(const std::string& path, std::string_view content, mode_t mode) {
  std::string temporary = fmt::format("{}.{}.tmp", path, random_hex(4));
  auto write = [&]() -> Result<> {
    TS_TRY_ASSIGN(Fd fd, open_file(temporary, O_WRONLY | O_CREAT | O_EXCL, mode));
    if (::fchmod(fd.get(), mode) != 0) return fail_errno(errno, "chmod {}", temporary);
    TS_TRY_CTX(write_all(fd.get(), content), temporary);
    if (::fsync(fd.get()) != 0) return fail_errno(errno, "fsync {}", temporary);
    if (::rename(temporary.c_str(), path.c_str()) != 0) return fail_errno(errno, "rename {} to {}", temporary, path);
    return {};
  };
  auto r = write();
  if (!r) (void)::unlink(temporary.c_str());
  return r;
}

Result<> write_file_once(const std::string& path, std::string_view content) {
  std::string temporary = fmt::format("{}.{}.tmp", path, random_hex(4));
  TS_TRY(write_file_atomic(temporary, content));
  int rc = ::link(temporary.c_str(), path.c_str());
  int e = errno;
  (void)::unlink(temporary.c_str());
  if (rc != 0 && e != EEXIST) return fail_errno(e, "make {}", path);
  // The name must be as durable as the content.
  TS_TRY_ASSIGN(Fd dir, open_file(path.substr(0, path.rfind('/')), O_RDONLY | O_DIRECTORY));
  if (::fsync(dir.get()) != 0) return fail_errno(errno, "fsync the directory of {}", path);
  return {};
}

Result<> write_control(const std::string& path, std::string_view content) {
  TS_TRY_ASSIGN(Fd fd, open_file(path, O_WRONLY));
  ssize_t n = retry_eintr([&] { return ::write(fd.get(), content.data(), content.size()); });
  if (n < 0) return fail_errno(errno, "write \"{}\" to {}", content, path);
  return {};
}

Result<> make_dirs(const std::string& path, mode_t mode) {
  for (size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    std::string part = path.substr(0, slash);
    mode_t part_mode = slash == std::string::npos ? mode : 0755;
    if (::mkdir(part.c_str(), part_mode) != 0 && errno != EEXIST) return fail_errno(errno, "make directory {}", part);
    if (slash == std::string::npos) return {};
  }
}

Result<> remove_tree(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (error) return fail_errno(error.value(), "remove {}", path);
  return {};
}

Result<> empty_directory(const std::string& path) {
  std::error_code error;
  for (std::filesystem::directory_iterator it(path, error), end; !error && it != end; it.increment(error))
    TS_TRY(remove_tree(it->path()));
  if (error) return fail_errno(error.value(), "empty {}", path);
  return {};
}

Result<Space> space_of(const std::string& path) {
  struct statvfs s{};
  if (::statvfs(path.c_str(), &s) != 0) return fail_errno(errno, "free space of {}", path);
  return Space{s.f_blocks * s.f_frsize, s.f_bfree * s.f_frsize, s.f_ffree};
}

namespace {
Result<uint64_t> meminfo_field(const std::string& path, std::string_view field) {
  TS_TRY_ASSIGN(std::string text, read_file(path, 1U << 16));
  for (const auto& line : split(text, '\n')) {
    if (!line.starts_with(field)) continue;
    auto value = trim(std::string_view(line).substr(field.size()));
    TS_TRY_ASSIGN(uint64_t kib, parse_u64(value.substr(0, value.find(' ')), path));
    return kib * 1024;
  }
  return fail(Errc::kCorrupt, "{} has no {}", path, field);
}
}  // namespace

Result<uint64_t> memory_available(const std::string& meminfo) { return meminfo_field(meminfo, "MemAvailable:"); }
Result<uint64_t> memory_total(const std::string& meminfo) { return meminfo_field(meminfo, "MemTotal:"); }

Result<TmpfsMount> TmpfsMount::create(const std::string& path, uint64_t size_bytes) {
  TS_TRY(make_dirs(path));
  auto options = fmt::format("mode=0700,size={}", size_bytes);
  if (::mount("transship", path.c_str(), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options.c_str()) != 0)
    return fail_errno(errno, "mount a tmpfs of {} on {}", format_bytes(size_bytes), path);
  TmpfsMount m;
  m.path_ = path;
  return m;
}

Result<TmpfsMount> TmpfsMount::adopt(const std::string& path) {
  struct stat here{};
  struct stat above{};
  if (::stat(path.c_str(), &here) != 0 || ::stat((path + "/..").c_str(), &above) != 0)
    return fail_errno(errno, "look at {}", path);
  if (here.st_dev == above.st_dev) return fail(Errc::kNotFound, "nothing is mounted at {}", path);
  TmpfsMount m;
  m.path_ = path;
  return m;
}

TmpfsMount& TmpfsMount::operator=(TmpfsMount&& other) noexcept {
  if (this == &other) return *this;
  unmount();
  path_ = std::exchange(other.path_, {});
  return *this;
}

TmpfsMount::~TmpfsMount() { unmount(); }

void TmpfsMount::unmount() noexcept {
  if (path_.empty()) return;
  (void)::umount2(path_.c_str(), MNT_DETACH);
  (void)::rmdir(path_.c_str());
}

}  // namespace transship::sys
