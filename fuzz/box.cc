#include "fuzz/box.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "storage/beneath.h"
#include "storage/xattr.h"
#include "sys/file.h"

namespace transship::fuzz {
namespace fs = std::filesystem;

Box::Box() {
  std::string pattern = fs::temp_directory_path() / "transship-fuzz-XXXXXX";
  TS_CHECK(::mkdtemp(pattern.data()) != nullptr, "mkdtemp {}", pattern);
  path_ = pattern;
  for (const char* directory : {"/inside", "/outside-dir"})
    TS_CHECK(::mkdir((path_ + directory).c_str(), 0755) == 0, "mkdir {}", directory);
  for (const char* file : {"/outside", "/outside-dir/file"})
    TS_CHECK(sys::write_file_atomic(path_ + file, "untouched", 0640), "write {}", file);
  auto fd = open_file(inside(), O_RDONLY | O_DIRECTORY);
  TS_CHECK(fd, "open {}", inside());
  inside_fd_ = std::move(*fd);
  before_ = outside();
}

Box::~Box() {
  clear();
  std::error_code error;
  fs::remove_all(path_, error);
}

void Box::clear() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(inside())) names.push_back(entry.path().filename());
  for (const auto& name : names) {
    auto gone = storage::remove_beneath(inside_fd_.get(), name);
    TS_CHECK(gone, "{}", gone.error().message());
  }
  // Its own attributes may have been given away.
  (void)!::fchown(inside_fd_.get(), ::geteuid(), ::getegid());
  (void)::fchmod(inside_fd_.get(), 0755);
  (void)storage::replace_xattrs(inside(), {});
}

std::vector<std::string> Box::outside() const {
  std::vector<std::string> lines;
  auto add = [&](const fs::path& path) {
    struct stat st = {};
    if (path == inside() || ::lstat(path.c_str(), &st) != 0) return;
    auto content = S_ISREG(st.st_mode) ? sys::read_file(path, 4096).value_or("unreadable") : "";
    auto xattrs = storage::read_xattrs(path);
    lines.push_back(fmt::format("{} {:o} {}:{} links={} mtime={}.{} xattrs={} {}", path.string(), st.st_mode, st.st_uid,
                                st.st_gid, st.st_nlink, st.st_mtim.tv_sec, st.st_mtim.tv_nsec,
                                xattrs ? xattrs->size() : 0, content));
  };
  add(path_);
  for (const auto& entry : fs::recursive_directory_iterator(path_ + "/outside-dir")) add(entry.path());
  for (const auto& entry : fs::directory_iterator(path_)) add(entry.path());
  std::ranges::sort(lines);
  return lines;
}

void Box::check() const {
  auto now = outside();
  for (const auto& line : now) TS_CHECK(std::ranges::contains(before_, line), "outside: {}", line);
  TS_CHECK(now.size() == before_.size(), "outside: something is gone");
}

}  // namespace transship::fuzz
