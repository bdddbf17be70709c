// Rounds as a move makes them, with both that tell what changed, while threads do everything to names, small files and
// large ones. Whenever they stand still the last round has to make both trees the same, byte by byte.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <array>
#include <filesystem>
#include <random>

#include "base/thread.h"
#include "storage/watch/open_files.h"
#include "storage/watch/watch_test.h"
#include "storage/written/write_operations.h"
#include "storage/written/written_blocks.h"

namespace transship::storage {
namespace {

namespace fs = std::filesystem;
using namespace transship::storage::testing;
using ::testing::ElementsAreArray;

class Ranges final : public WrittenRanges {
 public:
  explicit Ranges(std::unique_ptr<WrittenBlocks> blocks) : blocks_(std::move(blocks)) {}
  Result<> follow(int fd) override { return blocks_->serves(fd) ? blocks_->follow(fd) : Result<>(); }
  Result<std::optional<std::vector<Extent>>> take(int fd, bool settle) override {
    if (!blocks_->serves(fd)) return std::nullopt;
    auto taken = blocks_->take(fd, settle);
    if (taken && *taken) ++told;
    return taken;
  }
  int told = 0;

 private:
  std::unique_ptr<WrittenBlocks> blocks_;
};

// Names, attributes and small files; what fails, fails. Some files it maps, and writes them by that for some time.
class Names {
 public:
  Names(std::string root, uint64_t seed) : root_(std::move(root)), random_(seed) {}
  ~Names() {
    for (auto& m : mapped_) unmap(m);
  }
  Names(const Names&) = delete;
  Names& operator=(const Names&) = delete;

  void act() {
    auto path = any(), other = any();
    switch (pick(16)) {
      case 0:
      case 1: write(path); break;
      case 2: done(::mkdir(path.c_str(), 0700)); break;
      case 3: done(::unlink(path.c_str())); break;
      case 4: done(::rmdir(path.c_str())); break;
      case 5: done(::rename(path.c_str(), other.c_str())); break;
      case 6: done(::renameat2(AT_FDCWD, path.c_str(), AT_FDCWD, other.c_str(), RENAME_EXCHANGE)); break;
      case 7: done(::link(path.c_str(), other.c_str())); break;
      case 8: done(::symlink(other.c_str(), path.c_str())); break;
      case 9: done(::chmod(path.c_str(), static_cast<mode_t>(0600 + pick(64)))); break;
      case 10: done(::lsetxattr(path.c_str(), "trusted.x", &path[0], pick(path.size()), 0)); break;
      case 11: done(::lchown(path.c_str(), static_cast<uid_t>(pick(9)), static_cast<gid_t>(pick(9)))); break;
      case 12: done(::renameat2(AT_FDCWD, big().c_str(), AT_FDCWD, big().c_str(), RENAME_NOREPLACE)); break;
      case 13: link_big(); break;
      default: use_mapping();
    }
  }

 private:
  static constexpr size_t kMapped = 8192;  // the size of all that are mapped: nobody makes one shorter
  struct Mapped {
    char* memory = nullptr;
    Fd fd;  // may be closed before the mapping ends, and after it
  };

  static void done(long /*whatever came of it*/) {}
  uint64_t pick(uint64_t below) { return random_() % below; }
  std::string directory() {
    auto path = root_;
    for (uint64_t depth = pick(3); depth > 0; --depth) path += fmt::format("/{}", pick(3));
    return path;
  }
  std::string any() { return directory() + fmt::format("/{}", pick(7)); }
  std::string big() { return directory() + fmt::format("/big-{}", pick(3)); }
  // They keep one name at least.
  void link_big() {
    auto path = big();
    struct stat st = {};
    if (::lstat(path.c_str(), &st) == 0 && st.st_nlink > 1) return done(::unlink(path.c_str()));
    done(::link(path.c_str(), big().c_str()));
  }
  void write(const std::string& path) {
    Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600));
    auto text = std::string(1 + pick(3000), static_cast<char>('a' + pick(26)));
    if (fd.valid()) done(::write(fd.get(), text.data(), text.size()));
  }
  static void unmap(Mapped& m) {
    if (m.memory != nullptr) done(::munmap(m.memory, kMapped));
    m.memory = nullptr;
  }
  void map(Mapped& m) {
    auto path = fmt::format("{}/mapped-{}", root_, pick(6));
    Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!fd.valid() || ::ftruncate(fd.get(), kMapped) != 0) return;
    void* memory = ::mmap(nullptr, kMapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    if (memory == MAP_FAILED) return;
    m.memory = static_cast<char*>(memory);
    m.fd = std::move(fd);
  }
  void use_mapping() {
    auto& m = mapped_[pick(mapped_.size())];
    if (m.memory == nullptr) return map(m);
    for (int n = 0; n < 3; ++n) static_cast<volatile char*>(m.memory)[pick(kMapped)] = static_cast<char>(random_());
    switch (pick(6)) {
      case 0: return unmap(m);
      case 1: return m.fd.reset();
      case 2: return done(::unlink(fmt::format("{}/mapped-{}", root_, pick(6)).c_str()));
      default: return;
    }
  }

  std::string root_;
  std::mt19937_64 random_;
  std::array<Mapped, 4> mapped_;
};

class RoundsStress : public ::testing::TestWithParam<FileSystem> {
 protected:
  void SetUp() override {
    if (!tree.fs.missing().empty()) GTEST_SKIP() << tree.fs.missing();
    auto blocks = WrittenBlocks::create();
    if (!blocks) GTEST_SKIP() << blocks.error().message();
    written = std::make_unique<Ranges>(std::move(*blocks));
    auto made = TreeWatch::create(tree.fs.fd());
    ASSERT_TRUE(made) << made.error().message();
    watch = std::move(*made);
  }

  void round(bool still) {
    RoundOptions options{.must_be_still = still, .known = &known, .written = written.get(), .watch = watch.get()};
    if (still) {
      options.always_resend = shared_writable_inodes({::getpid()}, tree.fs.fd(), tree.fs.tree())->inodes;
      options.always_look = *inodes_open_for_writing({::getpid()});
      options.always_look.insert(options.always_resend.begin(), options.always_resend.end());
    }
    RoundStats stats;
    auto next = move_round(tree.fs.fd(), to, last ? &*last : nullptr, options, &stats);
    ASSERT_TRUE(next) << next.error().message();
    last = std::move(*next);
    patched += stats.patched;
  }

  // How many extents and blocks a file has may differ: zeros that take the place of zeros are not sent.
  static std::vector<std::string> described(const std::string& root) {
    auto all = describe(root);
    for (auto& line : all)
      if (auto at = line.find(" extents="); at != std::string::npos) line.erase(at, line.find(" atime=", at) - at);
    return all;
  }

  WatchedTree tree{GetParam()};
  TempDir to;
  std::unique_ptr<TreeWatch> watch;
  std::unique_ptr<Ranges> written;
  KnownFiles known;
  std::optional<Scan> last;
  uint64_t patched = 0;
};

TEST_P(RoundsStress, TheTreesAreTheSameWheneverItStandsStill) {
  constexpr int kStops = 50, kActions = 60;
  std::mt19937_64 random(static_cast<uint64_t>(GTEST_FLAG_GET(random_seed)));  // others: --gtest_random_seed=N
  std::vector<std::unique_ptr<FileWriter>> large;
  for (int n = 0; n < 2; ++n)
    large.push_back(
        std::make_unique<FileWriter>(tree / fmt::format("big-{}", n), 1U << 20, static_cast<unsigned>(random())));
  Names names(tree.fs.tree(), random());
  auto everything = FileWriter::keeping_size();
  for (auto& name : FileWriter::changing_size()) everything.push_back(name);
  for (int stop = 0; stop < kStops && !HasFailure(); ++stop) {
    {
      std::vector<Thread> threads;
      for (auto& file : large)
        threads.emplace_back("large", [&everything, &file, seed = random()] {
          std::mt19937_64 choice(seed);
          for (int i = 0; i < kActions / 4; ++i) (void)file->run(everything[choice() % everything.size()]);
        });
      threads.emplace_back("names", [&names] {
        for (int i = 0; i < kActions; ++i) names.act();
      });
      ASSERT_NO_FATAL_FAILURE(round(false));
      ASSERT_NO_FATAL_FAILURE(round(false));
    }
    ASSERT_NO_FATAL_FAILURE(round(true)) << "stop " << stop;
    ASSERT_THAT(described(to.path()), ElementsAreArray(described(tree.fs.tree()))) << "stop " << stop;
  }
  fmt::print("{} patches, of {} files only what was written was read\n", patched, written->told);
  EXPECT_GT(patched, 0U);
  EXPECT_GT(written->told, 0);
}

INSTANTIATE_TEST_SUITE_P(, RoundsStress,
                         ::testing::Values(FileSystem::kBuildDirectory, FileSystem::kXfs, FileSystem::kBtrfs),
                         [](const auto& p) { return name_of(p.param); });

}  // namespace
}  // namespace transship::storage
