// Which parts of a file a round brings, when the other side has the file already. As text it is an attribute of the
// entry, whose contents are the data of the ranges, one after another:
//
//   BASE_SIZE SIZE [+OFFSET:LENGTH | -OFFSET:LENGTH]...      + data, - a hole; decimal
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace transship::storage {

struct PatchRange {
  int64_t offset = 0;
  int64_t length = 0;
  bool hole = false;
  int64_t end() const { return offset + length; }
  bool operator==(const PatchRange&) const = default;
};

// More ranges than this are sent as several patches of one file, one after another.
struct Patch {
  static constexpr size_t kMaxRanges = 1024;
  static constexpr size_t kMaxText = 48U << 10;
  int64_t base_size = 0;  // of the file that is patched: one of another size is not the one that was meant
  int64_t size = 0;       // afterwards; it is set first
  std::vector<PatchRange> ranges;
  int64_t data_length() const;
};

std::string to_text(const Patch& patch);
// Ranges are in order, apart from each other, not empty, and within the size. Else kPeerProtocol.
Result<Patch> parse_patch(std::string_view text);

}  // namespace transship::storage
