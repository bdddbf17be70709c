// Extended attributes of one name, as bytes; and which of them a move carries.
#pragma once
#include <map>
#include <string>
#include <string_view>

#include "base/result.h"

namespace transship::storage {

using Xattrs = std::map<std::string, std::string>;

// Of `path` itself, never of what a symbolic link points to. Empty where the file system has none.
Result<Xattrs> read_xattrs(const std::string& path);
// Afterwards `path` has exactly these, among those that travel.
Result<> replace_xattrs(const std::string& path, const Xattrs& wanted);

// Not overlay's bookkeeping, which is about inodes of one host; not the SELinux label, which the destination's engine
// sets; not our own mark.
bool xattr_travels(std::string_view name);

constexpr std::string_view kMetacopy = "trusted.overlay.metacopy";
constexpr std::string_view kRedirect = "trusted.overlay.redirect";

}  // namespace transship::storage
