// For tests: a temporary directory, a tree with everything that is hard to copy, and a comparison that misses nothing.
#pragma once
#include <string>
#include <vector>

#include "base/fd.h"
#include "storage/byte_stream.h"
#include "storage/scan.h"
#include "storage/tree_delta.h"

namespace transship::storage::testing {

class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  int fd() const { return fd_.get(); }

 private:
  std::string path_;
  Fd fd_;
};

Cancel never();
void write_text(const std::string& path, std::string_view text);
// Lets the coarse clock that files get their times from move on, so that what is there counts as settled.
void settle();

// One line per name with every attribute, contents hashed, hard link groups by their first name; sorted.
std::vector<std::string> describe(const std::string& root);

// What cannot be made here is left out, and the reason given.
std::vector<std::string> make_nasty_tree(const std::string& root);

// A round through a pipe with both ends at work.
Result<Scan> move_round(int from_fd, const TempDir& to, const Scan* previous, const RoundOptions& options = {},
                        RoundStats* stats = nullptr, const ApplyLimits& limits = {.allow_devices = true});
inline Result<Scan> move_round(const TempDir& from, const TempDir& to, const Scan* previous,
                               const RoundOptions& options = {}, RoundStats* stats = nullptr) {
  return move_round(from.fd(), to, previous, options, stats);
}

}  // namespace transship::storage::testing
