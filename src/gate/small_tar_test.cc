#include "gate/small_tar.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "base/fd.h"
#include "sys/file.h"

namespace transship::gate {
namespace {

class SmallTarTest : public testing::Test {
 protected:
  SmallTarTest() {
    std::string pattern = testing::TempDir() + "/tarXXXXXX";
    base_ = ::mkdtemp(pattern.data());
    std::filesystem::create_directory(from());
    std::filesystem::create_directory(to());
  }
  ~SmallTarTest() override { (void)sys::remove_tree(base_); }
  std::string from() const { return base_ + "/from"; }
  std::string to() const { return base_ + "/to"; }

  void fill() {
    std::filesystem::create_directories(from() + "/dir/deep");
    std::ofstream(from() + "/file") << std::string(70'000, 'x') << "end";
    std::ofstream(from() + "/dir/empty");
    std::filesystem::create_symlink("/proc/self/fd", from() + "/fd");
    ASSERT_EQ(::mkfifo((from() + "/dir/fifo").c_str(), 0640), 0);
    ASSERT_EQ(::mknod((from() + "/null").c_str(), S_IFCHR | 0666, makedev(1, 3)), 0);
    ASSERT_EQ(::chmod((from() + "/null").c_str(), 0666), 0);
    ASSERT_EQ(::chmod((from() + "/dir").c_str(), 01777), 0);
    ASSERT_EQ(::chown((from() + "/file").c_str(), 1234, 99), 0);
    timespec old[2] = {{1'600'000'000, 0}, {1'600'000'000, 0}};
    for (const auto* name : {"/file", "/dir", ""}) ASSERT_EQ(::utimensat(AT_FDCWD, (from() + name).c_str(), old, 0), 0);
  }
  // Everything that a tar keeps, one line each.
  static std::string listing(const std::string& dir) {
    std::vector<std::string> lines;
    auto add = [&](const std::string& path) {
      struct stat st{};
      ASSERT_EQ(::lstat(path.c_str(), &st), 0);
      std::string more;
      if (S_ISLNK(st.st_mode)) more = std::filesystem::read_symlink(path);
      if (S_ISREG(st.st_mode)) more = *sys::read_file(path, 1 << 20);
      lines.push_back(fmt::format("{} {:o} {} {} {} {} {}", path.substr(dir.size()), st.st_mode, st.st_uid, st.st_gid,
                                  S_ISLNK(st.st_mode) ? 0 : st.st_mtim.tv_sec, st.st_rdev, more));
    };
    add(dir);
    for (const auto& e : std::filesystem::recursive_directory_iterator(dir)) add(e.path());
    std::ranges::sort(lines);
    std::string all;
    for (const auto& line : lines) all += line + "\n";
    return all;
  }
  Result<std::string> make() const { return make_small_tar(open_file(from(), O_RDONLY | O_DIRECTORY)->get()); }
  Result<> unpack(const std::string& archive) const {
    return unpack_small_tar(archive, open_file(to(), O_RDONLY | O_DIRECTORY)->get());
  }
  struct Member {
    std::string name;
    char type;
    std::string link = {};
  };
  // By somebody else's hands: a header for each, checksums that fit, one block of deflate that is not compressed.
  static std::string archive_of(const std::vector<Member>& members) {
    std::string tar;
    for (const auto& m : members) {
      std::string block(512, '\0');
      auto put = [&](size_t at, std::string_view text) { block.replace(at, text.size(), text); };
      put(0, m.name);
      for (size_t at : {100U, 108U, 116U, 329U, 337U}) put(at, "0000755");
      for (size_t at : {124U, 136U}) put(at, "00000000000");
      put(156, std::string(1, m.type) + m.link);
      put(257, std::string_view("ustar\00000", 8));
      put(148, "        ");
      unsigned sum = 0;
      for (char c : block) sum += static_cast<unsigned char>(c);
      put(148, fmt::format("{:06o}", sum) + std::string("\0 ", 2));
      tar += block;
    }
    tar.append(1024, '\0');
    uint32_t crc = ~0U;
    for (char c : tar) {
      crc ^= static_cast<unsigned char>(c);
      for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xedb88320U : 0U);
    }
    std::string out("\x1f\x8b\x08\0\0\0\0\0\0\x03\1", 11);
    auto put = [&out](uint32_t value, int bytes) {
      for (int i = 0; i < bytes; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
    };
    put(static_cast<uint32_t>(tar.size()), 2);
    put(~static_cast<uint32_t>(tar.size()) & 0xffff, 2);
    out += tar;
    put(~crc, 4);
    put(static_cast<uint32_t>(tar.size()), 4);
    return out;
  }
  std::string base_;
};

TEST_F(SmallTarTest, ThereAndBack) {
  fill();
  auto archive = make();
  ASSERT_TRUE(archive) << archive.error().message();
  ASSERT_TRUE(unpack(*archive));
  EXPECT_EQ(listing(to()), listing(from()));
}

TEST_F(SmallTarTest, TheRealTarReadsIt) {
  fill();
  auto archive = make();
  ASSERT_TRUE(archive);
  std::ofstream(base_ + "/archive", std::ios::binary) << *archive;
  ASSERT_EQ(std::system(("tar --extract --gzip -p --directory " + to() + " < " + base_ + "/archive").c_str()), 0);
  EXPECT_EQ(listing(to()), listing(from()));
}

TEST_F(SmallTarTest, AnEmptyDirectory) {
  auto archive = make();
  ASSERT_TRUE(archive);
  ASSERT_TRUE(unpack(*archive));
  EXPECT_EQ(listing(to()), listing(from()));
}

TEST_F(SmallTarTest, LeavesTheRestToTheRealTar) {
  std::ofstream(from() + "/large") << std::string(200'000, 'x');
  EXPECT_EQ(make().error().code(), Errc::kRefused);
  std::filesystem::remove(from() + "/large");
  std::ofstream(from() + "/one");
  std::filesystem::create_hard_link(from() + "/one", from() + "/two");
  EXPECT_EQ(make().error().code(), Errc::kRefused);
  std::filesystem::remove(from() + "/two");
  std::ofstream(from() + "/" + std::string(120, 'n'));
  EXPECT_EQ(make().error().code(), Errc::kRefused);
}

// It comes in CRIU's images, from another host: a link in it must not lead the way for what follows.
TEST_F(SmallTarTest, NothingIsMadeThroughALink) {
  ASSERT_TRUE(unpack(archive_of({{"./", '5'}, {"./d/", '5'}, {"./d/f", '0'}, {"./l", '2', ".."}})));
  std::filesystem::remove_all(to());
  std::filesystem::create_directory(to());
  auto outside = listing(from());
  const std::vector<std::vector<Member>> hostile = {
      {{"./l", '2', "../from"}, {"./l/new", '0'}},
      {{"./l", '2', "../from"}, {"./l/", '5'}, {"./l/new", '0'}},
      {{"./l/", '5'}, {"./l", '2', "../from"}, {"././l/new", '0'}},
      {{"./l", '2', "../from"}, {"./l", '5'}},
      {{"./d", '0'}, {"./d", '0'}},
      {{"./no-such-directory/f", '0'}},
      {{"./d/", '5'}, {"./d//f", '0'}},
  };
  for (const auto& members : hostile) {
    auto r = unpack(archive_of(members));
    ASSERT_FALSE(r) << members.back().name;
    EXPECT_EQ(r.error().code(), Errc::kRefused) << members.back().name << ": " << r.error().message();
    EXPECT_TRUE(std::filesystem::is_empty(to())) << members.back().name;
  }
  EXPECT_EQ(listing(from()), outside);
}

TEST_F(SmallTarTest, RefusesWhatItHasNotMade) {
  fill();
  ASSERT_EQ(std::system(("tar --create --gzip --directory " + from() + " . > " + base_ + "/real").c_str()), 0);
  auto real = sys::read_file(base_ + "/real", 1 << 20);
  ASSERT_TRUE(real);
  auto refused = unpack(*real);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::kRefused);
  auto archive = *make();
  for (size_t at = 0; at < archive.size(); at += 97) {
    auto broken = archive;
    broken[at] = static_cast<char>(broken[at] ^ 0x55);
    auto r = unpack(broken);
    EXPECT_TRUE(r || r.error().code() == Errc::kRefused) << at;
  }
  EXPECT_FALSE(unpack(archive.substr(0, archive.size() / 2)));
  EXPECT_FALSE(unpack(""));
  EXPECT_TRUE(std::filesystem::is_empty(to()));
}

}  // namespace
}  // namespace transship::gate
