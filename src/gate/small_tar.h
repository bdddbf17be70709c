// Archives of small directories: a ustar archive in a gzip stream without compression, readable by every tar.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.h"

namespace transship::gate {

inline constexpr size_t kSmallTarEntries = 256;
inline constexpr size_t kSmallTarBytes = 256U << 10;

// Everything below `directory`, which becomes "./". Directories, symbolic links, device files, FIFOs and small regular
// files with one name; on one file system. kRefused: something else is there, or more than the limits; nothing is wrong
// with it, but it takes a real tar.
Result<std::string> make_small_tar(int directory);

// Unpacks what make_small_tar() has made, owners, modes and times included. kRefused, before anything is changed: it is
// not such an archive, or it names a place outside.
Result<> unpack_small_tar(std::string_view archive, int directory);

}  // namespace transship::gate
