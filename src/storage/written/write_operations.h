// For tests: everything that changes what a file has in it, at random places.
#pragma once
#include <random>
#include <string>
#include <vector>

#include "base/fd.h"

namespace transship::storage::testing {

// One thread; several of them may work on one file when none but one makes it shorter.
class FileWriter {
 public:
  static constexpr size_t kLeast = 1U << 20, kMost = 8U << 20;  // how large it leaves the file

  // A file of `size` bytes at `path`, new; and one more beside it, to copy from.
  FileWriter(const std::string& path, size_t size, unsigned seed);
  // Another of an existing file.
  FileWriter(const FileWriter& other, unsigned seed);
  ~FileWriter();
  FileWriter& operator=(const FileWriter&) = delete;

  int fd() const { return file_.get(); }
  size_t size() const;

  // The file's size changes only by those of the second half.
  static std::vector<std::string> keeping_size();
  static std::vector<std::string> changing_size();
  // 0, or why it cannot be done here (errno).
  int run(const std::string& operation);

 private:
  struct Span {
    off_t at;
    size_t length;
  };
  struct Operation {
    std::string name;
    int (FileWriter::*run)();
  };
  static const std::vector<Operation>& stable();
  static const std::vector<Operation>& resizing();
  void open_all(const std::string& path);
  size_t below(size_t limit) { return std::uniform_int_distribution<size_t>(0, limit - 1)(random_); }
  Span span(size_t longest);
  Span aligned(size_t longest, size_t unit = 4096);
  const std::vector<char>& bytes(size_t length);
  int fallocate(int mode, Span where);

  int write();
  int pwrite();
  int writev();
  int store();
  int store_again();
  int store_much();
  int direct();
  int direct_sector();
  int direct_append();
  int sendfile();
  int splice();
  int copy();
  int clone();
  int exchange();
  int uring();
  int punch();
  int punch_aligned();
  int zero();
  int zero_aligned();
  int truncate_and_back();
  int shrink();
  int extend();
  int append();
  int allocate();
  int collapse();
  int insert();

  std::string path_;
  std::mt19937 random_;
  Fd file_, direct_, other_;
  char* map_ = nullptr;
  char* buffer_ = nullptr;  // aligned, for direct writes
  std::vector<char> bytes_;
  size_t last_store_ = 0;
};

}  // namespace transship::storage::testing
