// A directory to work in, and things beside it that must stay as they are.
#pragma once
#include <string>
#include <vector>

#include "base/fd.h"

namespace transship::fuzz {

//   box/inside/            what the code under test gets
//   box/outside            a file
//   box/outside-dir/file   another one
// One for the life of the program; gone with it.
class Box {
 public:
  Box();
  ~Box();
  Box(const Box&) = delete;
  Box& operator=(const Box&) = delete;

  const std::string& path() const { return path_; }
  std::string inside() const { return path_ + "/inside"; }
  int inside_fd() const { return inside_fd_.get(); }
  // Empties `inside`, whatever is in it.
  void clear();
  // Ends the program when something outside of `inside` is another one than it was.
  void check() const;

 private:
  std::vector<std::string> outside() const;
  std::string path_;
  Fd inside_fd_;
  std::vector<std::string> before_;
};

}  // namespace transship::fuzz
