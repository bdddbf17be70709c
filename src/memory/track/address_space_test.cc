#include "memory/track/address_space.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "memory/track/test_kid.h"

namespace transship::memory {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(ParseVmas, EveryFieldOfALine) {
  auto vmas = parse_vmas(
      "7f00aa000-7f00ab000 rw-s 00002000 fd:1f 4711                  /dev/shm/a name with spaces (deleted)\n"
      "5600000000-5600001000 ---p 00000000 00:00 0 \n");
  ASSERT_EQ(vmas.size(), 2U);
  Vma file{0x7f00aa000,
           0x7f00ab000,
           true,
           true,
           false,
           true,
           0x2000,
           0xfd,
           0x1f,
           4711,
           "/dev/shm/a name with spaces (deleted)"};
  EXPECT_EQ(vmas[0], file);
  EXPECT_EQ(vmas[1], (Vma{0x5600000000, 0x5600001000, false, false, false, false, 0, 0, 0, 0, ""}));
}

TEST(ParseVmas, LinesThatMakeNoSenseAreSkipped) {
  EXPECT_THAT(parse_vmas("\n-\n7f00-\n7f01-7f00 rw-p 0 0:0 0\n1-2 rw 0 0:0 0\nx-y rw-p 0 0:0 0\n1-2 rw-p 0 00 0"),
              IsEmpty());
}

TEST(ParseVmas, KindsOfMemory) {
  auto vmas = parse_vmas(
      "1000-2000 r--p 00000000 00:00 0 [vvar]\n"
      "2000-3000 r-xp 00000000 00:00 0 [vdso]\n"
      "3000-4000 rw-s 00000000 00:12 7 /[aio] (deleted)\n"
      "4000-5000 rw-p 00000000 00:00 0 [heap]\n"
      "5000-6000 rw-s 00000000 00:01 9 /dev/zero (deleted)\n");
  std::vector<bool> memory;
  std::vector<bool> always;
  for (const auto& vma : vmas) {
    memory.push_back(is_private_memory(vma));
    always.push_back(is_always_dumped(vma));
  }
  EXPECT_THAT(memory, ElementsAre(false, false, false, true, false));
  EXPECT_THAT(always, ElementsAre(false, true, true, false, false));
}

TEST(InnermostPid, LastOfTheList) {
  EXPECT_EQ(parse_innermost_pid("Name:\tx\nPid:\t900\nNSpid:\t900\t17\t3\n"), 3U);
  EXPECT_EQ(parse_innermost_pid("NSpid:\t900\n"), 900U);
  EXPECT_EQ(parse_innermost_pid("Name:\tx\n"), 0U);
}

TEST(AddressSpace, OfAProcessThatHasEnded) {
  pid_t pid = 0;
  {
    pid = testing::Kid([](std::byte*) {}).pid();
  }
  EXPECT_EQ(read_vmas(pid).error().code(), Errc::kNotFound);
  EXPECT_EQ(innermost_pid(pid).error().code(), Errc::kNotFound);
}

TEST(AddressSpace, OfThisProcess) {
  int mark = 0;
  auto vmas = read_vmas(::getpid());
  ASSERT_TRUE(vmas);
  auto at = reinterpret_cast<uint64_t>(&mark);
  EXPECT_TRUE(std::ranges::any_of(*vmas, [&](const Vma& v) { return v.start <= at && at < v.end && v.writable; }));
  EXPECT_TRUE(same_address_space(::getpid(), ::getpid()));
  testing::Kid kid([](std::byte*) { ::pause(); });
  EXPECT_FALSE(same_address_space(::getpid(), kid.pid()));
}

TEST(MemoryDescriptors, DirectIo) {
  std::string path = ::testing::TempDir() + fmt::format("/direct-{}", ::getpid());
  auto file = open_file(path, O_RDWR | O_CREAT | O_DIRECT, 0600);
  if (!file) GTEST_SKIP() << "no O_DIRECT here: " << file.error().message();
  (void)::unlink(path.c_str());
  EXPECT_TRUE(memory_descriptors(::getpid()).direct_io);
  file->reset();
  EXPECT_FALSE(memory_descriptors(::getpid()).direct_io);
}

}  // namespace
}  // namespace transship::memory
