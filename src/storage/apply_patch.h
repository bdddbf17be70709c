// The receiver's side of a patch: changes a file where it is.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "storage/archive.h"

namespace transship::storage {

std::unexpected<Error> hostile(std::string_view path, std::string_view why);
Result<> write_at(int fd, std::span<const std::byte> bytes, int64_t offset);

// The contents of `e`, a patch, into `name` of `dir`; the file's other names see it too. Returns the bytes written: at
// most `max_bytes`, kNoSpace for more. kPeerProtocol: it is not there, no plain file, or not of the size that was
// patched.
Result<uint64_t> apply_patch(int dir, const std::string& name, const Entry& e, ArchiveReader& in, uint64_t max_bytes,
                             const Cancel& cancel);

}  // namespace transship::storage
