#include "storage/xattr.h"

#include <sys/xattr.h>

#include <algorithm>
#include <array>

#include "base/text.h"
#include "sys/arrival_mark.h"

namespace transship::storage {
namespace {

constexpr std::array<std::string_view, 8> kStay = {
    sys::kArrivalMark,       "trusted.overlay.origin", "trusted.overlay.impure", "trusted.overlay.uuid",
    "trusted.overlay.nlink", "trusted.overlay.upper",  "trusted.overlay.index",  "security.selinux"};

bool no_xattrs_here(int e) { return e == EOPNOTSUPP || e == ENOSYS; }

// Grows the buffer until the kernel is content: the size may change between asking and reading.
template <class Call>
Result<std::string> read_all(Call&& call) {
  std::string buffer(512, '\0');
  for (int i = 0; i < 16; ++i) {
    ssize_t n = call(buffer.data(), buffer.size());
    if (n >= 0) {
      buffer.resize(static_cast<size_t>(n));
      return buffer;
    }
    if (errno != ERANGE) return fail_errno(errno, "read extended attributes");
    n = call(nullptr, 0);
    if (n < 0) return fail_errno(errno, "read extended attributes");
    buffer.resize(static_cast<size_t>(n) + 256);
  }
  return fail(Errc::kUnavailable, "read extended attributes: they change all the time");
}

Result<std::vector<std::string>> names_of(const std::string& path) {
  auto list = read_all([&](char* to, size_t size) { return ::llistxattr(path.c_str(), to, size); });
  if (!list && no_xattrs_here(list.error().sys_errno())) return std::vector<std::string>{};
  if (!list) return std::unexpected(std::move(list).error());
  auto names = split(*list, '\0');
  std::erase_if(names, [](const std::string& n) { return n.empty() || !xattr_travels(n); });
  return names;
}

}  // namespace

bool xattr_travels(std::string_view name) { return std::ranges::find(kStay, name) == kStay.end(); }

Result<Xattrs> read_xattrs(const std::string& path) {
  TS_TRY_ASSIGN(auto names, names_of(path));
  Xattrs all;
  for (const auto& name : names) {
    auto value = read_all([&](char* to, size_t size) { return ::lgetxattr(path.c_str(), name.c_str(), to, size); });
    if (!value && value.error().sys_errno() == ENODATA) continue;  // removed meanwhile
    if (!value) return std::unexpected(std::move(value).error().context(name));
    all.emplace(name, std::move(*value));
  }
  return all;
}

Result<> replace_xattrs(const std::string& path, const Xattrs& wanted) {
  TS_TRY_ASSIGN(auto names, names_of(path));
  for (const auto& name : names) {
    if (wanted.contains(name)) continue;
    if (::lremovexattr(path.c_str(), name.c_str()) != 0 && errno != ENODATA)
      return fail_errno(errno, "remove extended attribute {}", name);
  }
  for (const auto& [name, value] : wanted) {
    if (::lsetxattr(path.c_str(), name.c_str(), value.data(), value.size(), 0) == 0) continue;
    auto error = fail_errno(errno, "set extended attribute {}", name);
    if (no_xattrs_here(error.error().sys_errno()))
      return std::unexpected(
          std::move(error.error()).with_remedy("put the container storage on a file system with extended attributes"));
    return error;
  }
  return {};
}

}  // namespace transship::storage
