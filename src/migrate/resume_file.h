// The file in a move's directory from which a daemon that starts goes on with the moves of one that was killed.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "memory/page.h"
#include "proto/journal.pb.h"

namespace transship::migrate {

// `directory`: RUN_DIR/moves/ID, a tmpfs. Replaces an earlier one in one step. It holds the lane token and the
// container's specification: mode 0600.
Result<> write_resume_file(const std::string& directory, const journal::ResumeFile& file);
// kNotFound: that move has none (yet). kCorrupt: it is none.
Result<journal::ResumeFile> read_resume_file(const std::string& directory);

// What the pager was told to expect, kept beside it. Ranges ascend.
using ExpectedPages = std::vector<std::pair<memory::SpaceId, std::vector<memory::PageRange>>>;
Result<> write_expected_pages(const std::string& directory, const ExpectedPages& expected);
Result<ExpectedPages> read_expected_pages(const std::string& directory);

}  // namespace transship::migrate
