#include "storage/written/write_operations.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace transship::storage::testing {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kLongest = 256U << 10;

// xfs_fs.h of Linux 6.10.
struct ExchangeRange {
  int32_t file1_fd;
  uint32_t pad;
  uint64_t file1_offset;
  uint64_t file2_offset;
  uint64_t length;
  uint64_t flags;
};

int outcome(ssize_t result) { return result < 0 ? errno : 0; }

}  // namespace

FileWriter::FileWriter(const std::string& path, size_t size, unsigned seed) : path_(path), random_(seed) {
  for (const auto& name : {path, path + ".other"}) {
    auto fd = open_file(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (!fd) ADD_FAILURE() << fd.error().message();
    for (size_t at = 0; fd && at < size; at += kLongest)
      EXPECT_EQ(::pwrite(fd->get(), bytes(kLongest).data(), kLongest, static_cast<off_t>(at)),
                static_cast<ssize_t>(kLongest));
    if (fd) (void)::fsync(fd->get());
  }
  open_all(path);
}

FileWriter::FileWriter(const FileWriter& other, unsigned seed) : path_(other.path_), random_(seed) {
  open_all(other.path_);
}

void FileWriter::open_all(const std::string& path) {
  auto file = open_file(path, O_RDWR), direct = open_file(path, O_RDWR | O_DIRECT),
       other = open_file(path + ".other", O_RDWR);
  if (!file || !direct || !other) {
    ADD_FAILURE() << "cannot open " << path;
    return;
  }
  file_ = std::move(*file);
  direct_ = std::move(*direct);
  other_ = std::move(*other);
  map_ = static_cast<char*>(::mmap(nullptr, kMost, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0));
  EXPECT_NE(map_, MAP_FAILED);
  buffer_ = static_cast<char*>(std::aligned_alloc(kPage, kLongest));
}

FileWriter::~FileWriter() {
  if (map_ != nullptr && map_ != MAP_FAILED) ::munmap(map_, kMost);
  std::free(buffer_);
}

size_t FileWriter::size() const {
  struct stat st{};
  return ::fstat(file_.get(), &st) == 0 ? static_cast<size_t>(st.st_size) : 0;
}

FileWriter::Span FileWriter::span(size_t longest) {
  size_t size = this->size(), length = 1 + below(longest);
  size_t at = below(size);
  return {static_cast<off_t>(at), std::min(length, size - at)};
}

FileWriter::Span FileWriter::aligned(size_t longest, size_t unit) {
  size_t units = size() / unit, at = below(units);
  return {static_cast<off_t>(at * unit), std::min(1 + below(longest / unit), units - at) * unit};
}

// That can be compressed, and are never zeros.
const std::vector<char>& FileWriter::bytes(size_t length) {
  bytes_.resize(length);
  for (size_t at = 0; at < length; at += 64)
    std::fill_n(bytes_.begin() + static_cast<ssize_t>(at), std::min<size_t>(64, length - at),
                static_cast<char>(1 + below(255)));
  return bytes_;
}

const std::vector<FileWriter::Operation>& FileWriter::stable() {
  static const std::vector<Operation> all = {
      {"write", &FileWriter::write},
      {"pwrite", &FileWriter::pwrite},
      {"writev", &FileWriter::writev},
      {"store", &FileWriter::store},
      {"store_again", &FileWriter::store_again},
      {"store_much", &FileWriter::store_much},
      {"direct", &FileWriter::direct},
      {"direct_sector", &FileWriter::direct_sector},
      {"sendfile", &FileWriter::sendfile},
      {"splice", &FileWriter::splice},
      {"copy", &FileWriter::copy},
      {"clone", &FileWriter::clone},
      {"exchange", &FileWriter::exchange},
      {"uring", &FileWriter::uring},
      {"punch", &FileWriter::punch},
      {"punch_aligned", &FileWriter::punch_aligned},
      {"zero", &FileWriter::zero},
      {"zero_aligned", &FileWriter::zero_aligned},
  };
  return all;
}

const std::vector<FileWriter::Operation>& FileWriter::resizing() {
  static const std::vector<Operation> all = {
      {"truncate_and_back", &FileWriter::truncate_and_back},
      {"shrink", &FileWriter::shrink},
      {"extend", &FileWriter::extend},
      {"append", &FileWriter::append},
      {"direct_append", &FileWriter::direct_append},
      {"allocate", &FileWriter::allocate},
      {"collapse", &FileWriter::collapse},
      {"insert", &FileWriter::insert},
  };
  return all;
}

std::vector<std::string> FileWriter::keeping_size() {
  std::vector<std::string> names;
  for (const auto& operation : stable()) names.push_back(operation.name);
  return names;
}

std::vector<std::string> FileWriter::changing_size() {
  std::vector<std::string> names;
  for (const auto& operation : resizing()) names.push_back(operation.name);
  return names;
}

int FileWriter::run(const std::string& name) {
  for (const auto* list : {&stable(), &resizing()})
    for (const auto& operation : *list)
      if (operation.name == name) return (this->*operation.run)();
  return ENOSYS;
}

int FileWriter::write() {
  auto [at, length] = span(kLongest);
  if (::lseek(file_.get(), at, SEEK_SET) < 0) return errno;
  return outcome(::write(file_.get(), bytes(length).data(), length));
}

int FileWriter::pwrite() {
  auto [at, length] = span(below(2) == 0 ? 100 : kLongest);
  return outcome(::pwrite(file_.get(), bytes(length).data(), length, at));
}

int FileWriter::writev() {
  auto [at, length] = span(kLongest);
  (void)bytes(length);
  iovec parts[2] = {{bytes_.data(), length / 2}, {bytes_.data() + length / 2, length - length / 2}};
  return outcome(::pwritev(file_.get(), parts, 2, at));
}

int FileWriter::store() {
  last_store_ = below(size());
  map_[last_store_] = static_cast<char>(1 + below(255));
  return 0;
}

// Where the last one was: the page is dirty already if nobody has written it out.
int FileWriter::store_again() {
  if (last_store_ >= size()) return store();
  map_[last_store_] = static_cast<char>(1 + below(255));
  return 0;
}

int FileWriter::store_much() {
  auto [at, length] = span(kLongest);
  std::memcpy(map_ + at, bytes(length).data(), length);
  return 0;
}

int FileWriter::direct() {
  auto [at, length] = aligned(kLongest);
  std::memcpy(buffer_, bytes(length).data(), length);
  return outcome(::pwrite(direct_.get(), buffer_, length, at));
}

int FileWriter::direct_sector() {
  auto [at, length] = aligned(kPage * 2, 512);
  std::memcpy(buffer_, bytes(length).data(), length);
  return outcome(::pwrite(direct_.get(), buffer_, length, at));
}

int FileWriter::direct_append() {
  size_t at = size() / kPage * kPage;
  if (at + kPage * 4 > kMost) return shrink();
  std::memcpy(buffer_, bytes(kPage * 4).data(), kPage * 4);
  return outcome(::pwrite(direct_.get(), buffer_, kPage * 4, static_cast<off_t>(at)));
}

int FileWriter::sendfile() {
  auto [at, length] = span(kLongest);
  off_t from = static_cast<off_t>(below(kLeast / 2));
  if (::lseek(file_.get(), at, SEEK_SET) < 0) return errno;
  return outcome(::sendfile(file_.get(), other_.get(), &from, length));
}

int FileWriter::splice() {
  auto [at, length] = span(16 * kPage);  // what a pipe holds
  auto pipe = make_pipe();
  if (!pipe) return pipe.error().sys_errno();
  auto put = ::write(pipe->write.get(), bytes(length).data(), length);
  if (put < 0) return errno;
  return outcome(::splice(pipe->read.get(), nullptr, file_.get(), &at, static_cast<size_t>(put), SPLICE_F_MOVE));
}

int FileWriter::copy() {
  auto [at, length] = span(kLongest);
  off_t from = static_cast<off_t>(below(kLeast / 2));
  return outcome(::copy_file_range(other_.get(), &from, file_.get(), &at, length, 0));
}

int FileWriter::clone() {
  auto [at, length] = aligned(kLongest);
  file_clone_range range{};
  range.src_fd = other_.get();
  range.src_offset = below(kLeast / 2 / kPage) * kPage;
  range.src_length = length;
  range.dest_offset = static_cast<uint64_t>(at);
  return outcome(::ioctl(file_.get(), FICLONERANGE, &range));
}

// Contents of the two files change places.
int FileWriter::exchange() {
  auto [at, length] = aligned(kLongest);
  ExchangeRange range{};
  range.file1_fd = other_.get();
  range.file1_offset = below(kLeast / 2 / kPage) * kPage;
  range.file2_offset = static_cast<uint64_t>(at);
  range.length = length;
  return outcome(::ioctl(file_.get(), _IOW('X', 129, ExchangeRange), &range));
}

// One write by io_uring, on a ring of its own.
int FileWriter::uring() {
  auto [at, length] = aligned(kLongest);
  std::memcpy(buffer_, bytes(length).data(), length);
  io_uring_params params{};
  Fd ring(static_cast<int>(::syscall(SYS_io_uring_setup, 1, &params)));
  if (!ring.valid()) return errno;
  size_t ring_size = params.sq_off.array + params.sq_entries * sizeof(uint32_t);
  auto* submission = static_cast<char*>(
      ::mmap(nullptr, ring_size, PROT_READ | PROT_WRITE, MAP_SHARED, ring.get(), IORING_OFF_SQ_RING));
  auto* entry = static_cast<io_uring_sqe*>(
      ::mmap(nullptr, sizeof(io_uring_sqe), PROT_READ | PROT_WRITE, MAP_SHARED, ring.get(), IORING_OFF_SQES));
  if (submission == MAP_FAILED || static_cast<void*>(entry) == MAP_FAILED) return errno;
  entry->opcode = IORING_OP_WRITE;
  entry->fd = below(2) == 0 ? direct_.get() : file_.get();
  entry->addr = reinterpret_cast<uint64_t>(buffer_);
  entry->len = static_cast<uint32_t>(length);
  entry->off = static_cast<uint64_t>(at);
  *reinterpret_cast<uint32_t*>(submission + params.sq_off.array) = 0;
  std::atomic_ref(*reinterpret_cast<uint32_t*>(submission + params.sq_off.tail)).fetch_add(1);
  auto done = ::syscall(SYS_io_uring_enter, ring.get(), 1, 1, IORING_ENTER_GETEVENTS, nullptr, 0);
  int result = outcome(done);
  ::munmap(submission, ring_size);
  ::munmap(entry, sizeof(io_uring_sqe));
  return result;
}

int FileWriter::fallocate(int mode, Span where) {
  return outcome(::fallocate(file_.get(), mode, where.at, static_cast<off_t>(where.length)));
}

int FileWriter::punch() { return fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, span(kLongest)); }
int FileWriter::punch_aligned() { return fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, aligned(kLongest)); }
int FileWriter::zero() { return fallocate(FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, span(kLongest)); }
int FileWriter::zero_aligned() { return fallocate(FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, aligned(kLongest)); }

int FileWriter::truncate_and_back() {
  auto size = this->size();
  if (::ftruncate(file_.get(), static_cast<off_t>(size - 1 - below(kLongest))) < 0) return errno;
  return outcome(::ftruncate(file_.get(), static_cast<off_t>(size)));
}

int FileWriter::shrink() {
  auto size = this->size(), less = below(kLongest);
  return size - less < kLeast ? extend() : outcome(::ftruncate(file_.get(), static_cast<off_t>(size - less)));
}

int FileWriter::extend() {
  auto size = this->size(), more = below(kLongest);
  return size + more > kMost ? shrink() : outcome(::ftruncate(file_.get(), static_cast<off_t>(size + more)));
}

int FileWriter::append() {
  auto size = this->size(), more = 1 + below(kLongest);
  if (size + more > kMost) return shrink();
  return outcome(::pwrite(file_.get(), bytes(more).data(), more, static_cast<off_t>(size)));
}

int FileWriter::allocate() {
  auto size = this->size(), more = 1 + below(kLongest);
  if (size + more > kMost) return shrink();
  return fallocate(0, {static_cast<off_t>(size - more / 2), more});
}

int FileWriter::collapse() {
  auto where = aligned(kLongest);
  if (size() - where.length < kLeast) return extend();
  if (static_cast<size_t>(where.at) + where.length >= size()) where.at = 0;
  return fallocate(FALLOC_FL_COLLAPSE_RANGE, where);
}

int FileWriter::insert() {
  auto where = aligned(kLongest);
  if (size() + where.length > kMost) return shrink();
  return fallocate(FALLOC_FL_INSERT_RANGE, where);
}

}  // namespace transship::storage::testing
