// Directories of this host that were made for a container on its way here are marked with the move, until it has come:
// what a daemon that was killed had made is then known from what was there before.
#pragma once
#include <string>
#include <string_view>

#include "base/result.h"

namespace transship::sys {

// An extended attribute that nobody but root sees. Part of no tree that travels.
constexpr std::string_view kArrivalMark = "trusted.transship.arrival";

// Makes `path` with all that is missing above it; the topmost that was made gets the mark. One that is there already is
// marked as such; it must be empty (kAlreadyExists). A file system without such attributes: kKernelFeatureMissing, and
// nothing is made.
Result<> make_marked_dirs(const std::string& path, const std::string& move_id);
// Removes the topmost directory of `path` that has this move's mark, with all that is in it; of one that was there,
// only what is in it. None is fine.
Result<> remove_marked_dirs(const std::string& path, const std::string& move_id);
// They stay.
void unmark_dirs(const std::string& path, const std::string& move_id);

}  // namespace transship::sys
