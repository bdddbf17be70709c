// Where programs are that are named without a path.
#pragma once
#include <string>

#include "base/result.h"

namespace transship::sys {

// PATH, or the usual places where it is not set.
std::string search_path();

// The first file `name` in `path` that can be run; a name with a slash is that file itself. Directories of `path` that
// are empty, which stand for the current one, are left out. kNotFound.
Result<std::string> find_program(const std::string& name, const std::string& path = search_path());

}  // namespace transship::sys
