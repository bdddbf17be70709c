// A scan on disk, so that a tree is known again by a later daemon: a copy of a volume that stays behind when its
// container leaves is looked at again when the container comes back.
#pragma once
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "storage/scan.h"

namespace transship::storage {

// About 62 bytes for a name, and the name. That it came from a watched tree is not kept: the first scan of a TreeWatch
// that gets a parsed one as the one before walks over the whole tree. Requires: a scan of a tree, so at least its root.
std::string serialize(const Scan& scan);

// kCorrupt: it is not as it was written. kNoSpace: more names than `max_nodes` (about 90 bytes of memory each, and the
// name). Whatever the bytes are, what comes back is a tree: each node but the first has one parent, before it, which
// is a directory, and a name that can be one; names of one directory are in order.
constexpr size_t kMaxSavedNodes = 20'000'000;  // as many as a round may have entries
Result<Scan> parse_scan(std::string_view text, size_t max_nodes = kMaxSavedNodes);

// A name that is not the same in both, by what a round goes by (scan_diff.h), or nothing. Of several the first that is
// no directory, since a directory differs when its names do; else the first that is gone.
//
// What was not settled in `was` counts as it looks: for a tree that stands still afterwards, which a copy does that is
// left, having been written shortly before it was looked at says nothing. What it means: a write in the same tick of
// the clock as the write before it (20 ms at most), after `was` was made, to a file that kept its size, is not seen. So
// take `was` when nobody writes (the last round of a move), or look twice, some 20 ms apart, and keep the second.
std::optional<std::string> first_difference(const Scan& was, const Scan& now);

}  // namespace transship::storage
