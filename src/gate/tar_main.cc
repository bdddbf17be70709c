// transship-tar: CRIU finds it first in PATH as `tar` and starts it once for each tmpfs mount, to save and to restore
// what is in it, while the container stands still. With gzip that is two programs, some 12 ms, for directories that are
// nearly always empty or hold a few device files. What is small and simple is written and read here in the same format
// (a gzip stream, not compressed, of a ustar archive); anything else goes to the real tar. Only the two command lines
// that CRIU uses are known.
//
// Linked statically, with few parts: it is started eight times in a gap, and finding shared libraries takes longer than
// the work.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/text.h"
#include "gate/small_tar.h"
#include "sys/search_path.h"

namespace transship::gate {
namespace {

// The first `tar` in PATH that is not us.
int become_real_tar(char** argv) {
  struct stat own{};
  (void)::stat("/proc/self/exe", &own);
  for (const auto& dir : split(sys::search_path(), ':')) {
    auto program = dir + "/tar";
    struct stat st{};
    if (::stat(program.c_str(), &st) != 0 || (st.st_ino == own.st_ino && st.st_dev == own.st_dev)) continue;
    ::execv(program.c_str(), argv);
  }
  fmt::print(stderr, "transship-tar: there is no tar in PATH\n");
  return 127;
}

// CRIU's last two arguments: --directory DIR; to create, "." follows.
std::string_view argument_after(int argc, char** argv, std::string_view name) {
  for (int i = 1; i + 1 < argc; ++i) {
    if (argv[i] == name) return argv[i + 1];
  }
  return {};
}

bool has(int argc, char** argv, std::string_view name) {
  for (int i = 1; i < argc; ++i) {
    if (argv[i] == name) return true;
  }
  return false;
}

Result<> create(std::string_view directory) {
  TS_TRY_ASSIGN(Fd fd, open_file(std::string(directory), O_RDONLY | O_DIRECTORY));
  TS_TRY_ASSIGN(std::string archive, make_small_tar(fd.get()));
  return write_all(STDOUT_FILENO, archive);
}

Result<> extract(std::string_view directory) {
  struct stat st{};
  off_t begin = ::lseek(STDIN_FILENO, 0, SEEK_CUR);
  if (::fstat(STDIN_FILENO, &st) != 0 || begin < 0) return fail(Errc::kRefused, "its input is not a file");
  if (st.st_size - begin > static_cast<off_t>(2 * kSmallTarBytes)) return fail(Errc::kRefused, "it is large");
  std::string archive(static_cast<size_t>(st.st_size - begin), '\0');
  if (::pread(STDIN_FILENO, archive.data(), archive.size(), begin) != static_cast<ssize_t>(archive.size()))
    return fail(Errc::kRefused, "it cannot be read in one piece");
  TS_TRY_ASSIGN(Fd fd, open_file(std::string(directory), O_RDONLY | O_DIRECTORY));
  return unpack_small_tar(archive, fd.get());
}

int run(int argc, char** argv) {
  auto directory = argument_after(argc, argv, "--directory");
  bool creates = has(argc, argv, "--create");
  if (directory.empty() || creates == has(argc, argv, "--extract")) return become_real_tar(argv);
  ::umask(0);
  auto done = creates ? create(directory) : extract(directory);
  if (done) return 0;
  if (done.error().code() == Errc::kRefused) return become_real_tar(argv);
  fmt::print(stderr, "transship-tar: {}\n", done.error().message());
  return 2;
}

}  // namespace
}  // namespace transship::gate

#ifdef __SANITIZE_ADDRESS__
// CRIU starts it in a container that is not complete yet: without /proc the look for leaks fails, and with it the
// program.
extern "C" int __lsan_is_turned_off();               // NOLINT: the sanitizer looks for this name
extern "C" int __lsan_is_turned_off() { return 1; }  // NOLINT
#endif

int main(int argc, char** argv) { return transship::gate::run(argc, argv); }
